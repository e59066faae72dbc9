-- purpose    An idle worker of a linked pool, which has found nothing at home, takes work from the pools above, nearest first; where
--            there is none, it volunteers there. What it leaves in vl:<pool> is a hint: it counts while the worker volunteers at home.
-- keys       1 nodes   2 own   3 v of its pool   4 vs of its pool
-- arguments  1 prefix   2 incarnation   3 how many items it wants at most   4 the function of which it wants several; of others one
--            5 '1' if at its cap of parked calls: takes no fresh call   then the pools above, nearest first
-- reply      items, which it owns from now on; or 'gone' if the grid has given this incarnation up
-- repeated   may take more: what it owns it finds with resync
local me, want, token, capped = ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5] == '1'
if redis.call('HEXISTS', KEYS[1], me) == 0 then return 'gone' end

local function take(list)
  local items = redis.call('LRANGE', list, 0, want - 1)
  local k = #items > 0 and 1 or 0
  if k == 1 and string.sub(items[1], 33, 40) == token then
    while items[k + 1] and string.sub(items[k + 1], 33, 40) == token do k = k + 1 end
  end
  for i = #items, k + 1, -1 do items[i] = nil end
  if k > 0 then redis.call('LPOP', list, k) end
  return items
end

for i = 6, #ARGV do
  local items = take(prefix .. 'up:' .. ARGV[i])
  if #items == 0 and not capped then items = take(prefix .. 'q:' .. ARGV[i]) end
  if #items > 0 then
    for _, item in ipairs(items) do redis.call('HSET', KEYS[2], string.sub(item, 1, 32), item) end
    redis.call('SREM', KEYS[3], me)
    redis.call('SREM', KEYS[4], me)
    return items
  end
end
if not capped then
  for i = 6, #ARGV do redis.call('SADD', prefix .. 'vl:' .. ARGV[i], me) end
end
return {}
