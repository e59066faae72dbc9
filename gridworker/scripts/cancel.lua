#!lua flags=allow-oom
-- purpose    Takes asks back. A call that nobody asks for any more is cancelled: it leaves its queue, or its node is told.
-- keys       1 nodes   2 pools
-- arguments  1 prefix   2 the asker   3 '1' to have its process killed if a running call does not end
--            then for each call: id, the asker's call that asked ('' for a client), the pool it was sent to ('' is unknown)
-- reply      how many calls were cancelled
-- repeated   finds nothing to take back
local asker, kill = ARGV[2], ARGV[3] == '1'
local orphans, ids, lists = {}, {}, {}
for i = 4, #ARGV, 3 do
  local id, entry = ARGV[i], '<' .. asker .. ',' .. ARGV[i + 1] .. '>'
  local key = prefix .. 'c:' .. id
  local state = redis.call('GET', key)
  local from, to
  if state and string.byte(state) == PENDING then from, to = string.find(state, entry, 1, true) end
  if from then
    local rest = string.sub(state, 1, from - 1) .. string.sub(state, to + 1)
    if rest == 'P' then
      redis.call('DEL', key)
      orphans[id] = true
      ids[#ids + 1] = id
    else
      redis.call('SET', key, rest)
    end
  end
  if ARGV[i + 2] ~= '' then lists[prefix .. 'q:' .. ARGV[i + 2]] = true lists[prefix .. 'up:' .. ARGV[i + 2]] = true end
end
local cancelled = #ids
if cancelled == 0 then return 0 end

-- Tells the node that owns a call. One that is to be killed keeps a mark instead of the item, until that call has ended (see beat.lua).
local function tell_owner(node, known, id)
  if kill then
    local supervisor = string.match(known, '"supervisor": "([^"]+)"')
    redis.call('HSET', prefix .. 'own:' .. node, id, 'K')
    redis.call('SADD', prefix .. 'kill:' .. supervisor, node .. ',' .. id)
  else
    redis.call('HDEL', prefix .. 'own:' .. node, id)
  end
  tell(node, 'X' .. id)
end

local nodes = redis.call('HGETALL', KEYS[1])
for n = 1, #nodes, 2 do
  for first = 1, #ids, CHUNK do
    local last = math.min(first + CHUNK - 1, #ids)
    local items = redis.call('HMGET', prefix .. 'own:' .. nodes[n], unpack(ids, first, last))
    for i = first, last do
      if items[i - first + 1] then
        orphans[ids[i]] = nil
        tell_owner(nodes[n], nodes[n + 1], ids[i])
      end
    end
  end
  lists[prefix .. 'mine:' .. nodes[n]] = true
end
deliver(nil, KEYS[1])

-- Whatever is left waits in a queue. It is blanked first and removed in one go: a removal by value would search the list for each.
if next(orphans) then
  for _, pool in ipairs(redis.call('SMEMBERS', KEYS[2])) do
    lists[prefix .. 'q:' .. pool] = true
    lists[prefix .. 'up:' .. pool] = true
  end
  for list in pairs(lists) do
    local at, blank = 0, false
    while true do
      local items = redis.call('LRANGE', list, at, at + 999)
      for i, item in ipairs(items) do
        if orphans[string.sub(item, 1, 32)] then redis.call('LSET', list, at + i - 1, '') blank = true end
      end
      at = at + #items
      if #items < 1000 then break end
    end
    if blank then redis.call('LREM', list, 0, '') end
  end
end
return cancelled
