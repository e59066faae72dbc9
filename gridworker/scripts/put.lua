#!lua flags=allow-oom
-- purpose    Stores a part of a result on a server that is at its memory limit: what has been computed is to arrive.
-- keys       1 the part
-- arguments  1 prefix   2 its data   3 ms
-- reply      OK, or nil if it is there already, under a name that only this part has
-- repeated   changes nothing, and not its time to live either
return redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3], 'NX')
