#!lua flags=allow-oom
-- purpose    Moves the older half of busy members' own queues up to their pool, where any volunteer or linked pool may take them.
-- keys       1 nodes   2 busy
-- arguments  1 prefix   2 pool   3 the most to move from one member
-- reply      how many items were moved
-- repeated   moves half of what is left
local moved = 0
for _, member in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  local list = prefix .. 'mine:' .. member
  local length = redis.call('LLEN', list)
  if length == 0 then
    redis.call('SREM', KEYS[2], member)
  elseif length > 1 then
    local items = redis.call('RPOP', list, math.min(math.floor(length / 2), tonumber(ARGV[3])))
    into_pool(ARGV[2], items, true)
    moved = moved + #items
  end
end
deliver(nil, KEYS[1])
return moved
