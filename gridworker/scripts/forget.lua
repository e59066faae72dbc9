#!lua flags=allow-oom
-- purpose    A result refers to parts that are gone: its state goes, so that the call is run anew when somebody asks for it.
-- keys       none
-- arguments  1 prefix   2 call   3 the result as the inbox had it
-- reply      1 if the state was that result
-- repeated   finds another state or none
local state = prefix .. 'c:' .. ARGV[2]
if redis.call('GET', state) ~= ARGV[3] then return 0 end
return redis.call('DEL', state)
