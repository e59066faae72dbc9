-- purpose    What waits in a full pool goes up, to the nearest pool above where help is free. Full: nobody volunteers, calls wait.
--            Calls of calls go last, so they stay near who made them as long as there are others to send.
-- keys       1 nodes   2 v of the pool   3 q of the pool   4 up of the pool   5 links
-- arguments  1 prefix   2 the pool   3 how many calls to move at most for each free worker
-- reply      how many calls were moved
-- repeated   moves what is left, while help is free
if redis.call('SCARD', KEYS[2]) > 0 then return 0 end
local fresh, made = redis.call('LLEN', KEYS[3]), redis.call('LLEN', KEYS[4])
if fresh + made == 0 then return 0 end

-- How many workers are idle in a pool or volunteer there from below. Hints that do not count any more are thrown away.
local function free_in(pool)
  local free = redis.call('SCARD', prefix .. 'v:' .. pool)
  for _, node in ipairs(redis.call('SMEMBERS', prefix .. 'vl:' .. pool)) do
    if redis.call('SISMEMBER', prefix .. 'v:' .. string.match(node, '^([^/]+)/'), node) == 1 then
      free = free + 1
    else
      redis.call('SREM', prefix .. 'vl:' .. pool, node)
    end
  end
  return free
end

local above = redis.call('HGET', KEYS[5], ARGV[2])
while above do
  local free = free_in(above)
  if free > 0 then
    local most, moved = free * tonumber(ARGV[3]), 0
    for list = 3, 4 do
      local items = most > moved and redis.call('RPOP', KEYS[list], most - moved) or {}       -- the newest: the oldest are next here
      for i = 1, math.floor(#items / 2) do items[i], items[#items + 1 - i] = items[#items + 1 - i], items[i] end
      into_pool(above, items, list == 4)
      moved = moved + #items
    end
    deliver(nil, KEYS[1])
    return moved
  end
  above = redis.call('HGET', KEYS[5], above)
end
return 0
