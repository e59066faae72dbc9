#!lua flags=allow-oom
-- purpose    A supervisor says that it lives, and hears which of its nodes are still in a call that was cancelled with `kill`, and
--            whether its nodes are to leave.
-- keys       1 beats   2 kill   3 tallies
-- arguments  1 prefix   2 supervisor   then for each of its nodes: incarnation, what it has counted
-- reply      the entries <incarnation>,<call> whose call has not ended yet; `leave`, as often as it is asked: it holds for good
-- repeated   counts once more, writes the same
redis.call('HINCRBY', KEYS[1], ARGV[2], 1)
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1]) end
local still = {}
for _, entry in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  local node, id = string.match(entry, '^(.+),(%x+)$')
  if entry == 'leave' or node and redis.call('HGET', prefix .. 'own:' .. node, id) == 'K' then
    still[#still + 1] = entry
  else
    redis.call('SREM', KEYS[2], entry)
  end
end
return still
