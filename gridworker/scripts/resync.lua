-- purpose    A worker that may have missed the reply to a step asks what it owns.
-- keys       1 nodes   2 own
-- arguments  1 prefix   2 incarnation
-- reply      the items it owns; or 'gone' if the grid has given this incarnation up
-- repeated   reads only
if redis.call('HEXISTS', KEYS[1], ARGV[2]) == 0 then return 'gone' end
return redis.call('HVALS', KEYS[2])
