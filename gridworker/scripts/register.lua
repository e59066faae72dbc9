#!lua flags=allow-oom
-- purpose    A node's incarnation enters the grid.
-- keys       1 nodes   2 pools   3 beats
-- arguments  1 prefix   2 incarnation   3 its pool   4 what is known of it (JSON)   5 the supervisor that beats for it
-- reply      1 if it was new
-- repeated   writes the same
redis.call('SADD', KEYS[2], ARGV[3])
redis.call('HSETNX', KEYS[3], ARGV[5], 0)
return redis.call('HSET', KEYS[1], ARGV[2], ARGV[4])
