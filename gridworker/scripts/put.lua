#!lua flags=allow-oom
-- purpose    Stores a part of a result on a server that is at its memory limit: what has been computed is to arrive.
-- keys       1 the part
-- arguments  1 prefix   2 its data   3 ms
-- reply      OK
-- repeated   stores the same again
return redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
