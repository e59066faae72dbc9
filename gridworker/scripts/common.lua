-- Shared by the other scripts: put in front of each of them when it is loaded. Expects ARGV[1] to be the prefix of the grid's keys
-- ("grid:"). Fixed keys come in KEYS; the keys made here follow from data that only the server has: the state of a call, the inbox of
-- whoever asked for it, the volunteers of that inbox's pool.
--
-- The state of a call, <prefix>c:<id>, is a string:
--   P<asker,parent><asker,parent>…   pending: everyone who wants the result, and in which call (empty: a client, in none)
--   R<pickle>                        result, kept for a time      E<pickle>   failure, kept shortly and only for who asks again
-- An item is: id (32), function (8), tries (1 digit), payload. What goes into an inbox is one letter and the rest:
--   W<item>   work, owned by the inbox's node from this moment      R<id><pickle>   E<id><pickle>   C<id><id,id,…>   a cycle
local prefix = ARGV[1]
local PENDING, DONE = 80, 82          -- 'P', 'R'
local CHUNK = 2000                    -- arguments in one variadic command: Lua's stack holds 8,000
local INBOX_TTL = 3600000             -- ms; an abandoned client's inbox goes away
local outgoing = {}

local function tell(who, message)
  local box = outgoing[who]
  if box then box[#box + 1] = message else outgoing[who] = { message } end
end

-- One command with many values; without a key if the values are keys.
local function variadic(command, key, values)
  local n = #values
  if n == 0 then return end
  if not key then
    for i = 1, n, CHUNK do redis.call(command, unpack(values, i, math.min(i + CHUNK - 1, n))) end
    return
  end
  if n <= CHUNK then redis.call(command, key, unpack(values)) return end
  for i = 1, n, CHUNK do redis.call(command, key, unpack(values, i, math.min(i + CHUNK - 1, n))) end
end

-- Rings the bells. Whoever is rung no longer volunteers; whoever is not registered any more gets nothing. `self`, if given, is the node
-- that runs the script: its messages are returned instead, which spares it a round trip.
local function deliver(self, nodes)
  local own = outgoing[self]
  for who, messages in pairs(outgoing) do
    if who ~= self then
      local pool = string.match(who, '^([^/]+)/')
      local box = prefix .. 'in:' .. who
      if not pool then
        variadic('RPUSH', box, messages)
        redis.call('PEXPIRE', box, INBOX_TTL)
      elseif redis.call('HEXISTS', nodes, who) == 1 then
        variadic('RPUSH', box, messages)
        if redis.call('SREM', prefix .. 'v:' .. pool, who) == 0 then redis.call('SREM', prefix .. 'vs:' .. pool, who) end
      end
    end
  end
  return own or {}
end

-- The way from `from` up through those who wait for it to `target`, as ids joined by commas; nil if there is none.
local function way(from, target)
  local seen, stack = { [from] = '' }, { from }
  while #stack > 0 do
    local id = table.remove(stack)
    local path = seen[id] == '' and id or (id .. ',' .. seen[id])
    if id == target then return path end
    local state = redis.call('GET', prefix .. 'c:' .. id)
    if state and string.byte(state) == PENDING then
      for parent in string.gmatch(state, '<[^,]+,(%x+)>') do
        if not seen[parent] then seen[parent] = path stack[#stack + 1] = parent end
      end
    end
  end
end

-- Asks for a call. True if it is new and has to be queued; otherwise the asker has been joined, or told the outcome.
-- Asking twice for the same parent changes nothing. `again`: the asker may have missed the answer, so a kept failure counts too.
local function ask(id, asker, parent, again)
  local key = prefix .. 'c:' .. id
  local entry = '<' .. asker .. ',' .. parent .. '>'
  local was = redis.call('SET', key, 'P' .. entry, 'NX', 'GET')
  if not was then return true end
  local kind = string.byte(was)
  if kind == DONE then
    tell(asker, 'R' .. id .. string.sub(was, 2))
  elseif kind == PENDING then
    if string.find(was, entry, 2, true) then return false end
    local cycle = parent ~= '' and way(parent, id)
    if cycle then tell(asker, 'C' .. id .. cycle) return false end
    redis.call('APPEND', key, entry)
  elseif again then
    tell(asker, 'E' .. id .. string.sub(was, 2))
  else
    redis.call('SET', key, 'P' .. entry)
    return true
  end
  return false
end

-- Tells everyone who is in the state of a pending call; once each, however many of an asker's calls wait for it.
local function answer(state, message)
  local first = string.match(state, '^P<([^,]+),[^>]*>$')
  if first then tell(first, message) return end
  local told = {}
  for asker in string.gmatch(state, '<([^,]+),') do
    if not told[asker] then told[asker] = true tell(asker, message) end
  end
end

-- Makes a node the owner of an item and rings its bell.
local function hand(node, item)
  redis.call('HSET', prefix .. 'own:' .. node, string.sub(item, 1, 32), item)
  tell(node, 'W' .. item)
end

-- Hands the first items[first..last] to volunteers of a pool, one each; returns the index of the first item that is left.
local function hand_over(pool, items, first, last, of_calls)
  local sets = of_calls and { 'v:', 'vs:' } or { 'v:' }
  for _, set in ipairs(sets) do
    if first > last then break end
    for _, node in ipairs(redis.call('SPOP', prefix .. set .. pool, last - first + 1)) do
      hand(node, items[first])
      first = first + 1
    end
  end
  return first
end

-- Hands items[first…] to workers of linked pools below, who count as idle while they volunteer at home; the index of the first left.
local function hand_down(pool, items, first)
  while first <= #items do
    local node = redis.call('SPOP', prefix .. 'vl:' .. pool)
    if not node then break end
    if redis.call('SREM', prefix .. 'v:' .. string.match(node, '^([^/]+)/'), node) == 1 then
      hand(node, items[first])
      first = first + 1
    end
  end
  return first
end

-- Puts items into a pool: to volunteers first, then to those from linked pools, the rest into its queue.
local function into_pool(pool, items, of_calls)
  local first = hand_down(pool, items, hand_over(pool, items, 1, #items, of_calls))
  local rest = {}
  for i = first, #items do rest[#rest + 1] = items[i] end
  variadic('RPUSH', prefix .. (of_calls and 'up:' or 'q:') .. pool, rest)
end
