#!lua flags=allow-oom
-- purpose    Something refers to what is gone, a result to its parts or a note to the shelf: it goes, too, so that it is made anew.
-- keys       1 what refers
-- arguments  1 prefix   2 what it said
-- reply      1 if it still said that
-- repeated   finds something else or nothing
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return 0 end
return redis.call('DEL', KEYS[1])
