#!lua flags=allow-oom
-- purpose    A worker has ended a call that was cancelled with `kill`: it need not be killed for it.
-- keys       1 own
-- arguments  1 prefix   2 call
-- reply      1 if there was a mark
-- repeated   finds none
if redis.call('HGET', KEYS[1], ARGV[2]) ~= 'K' then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[2])
