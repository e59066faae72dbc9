-- Shared by the other scripts: put in front of each of them when it is loaded. Expects ARGV[1] to be the prefix of the grid's keys
-- ("grid:"). Fixed keys come in KEYS; the keys made here follow from data that only the server has: the state of a call, the inbox of
-- whoever asked for it, the volunteers of that inbox's pool.
--
-- The state of a call, <prefix>c:<id>, is a string:
--   P<asker,parent><asker,parent>…   pending: everyone who wants the result, and in which call (empty: a client, in none)
--   R<id><pickle>                    result, kept for a time      E<id><pickle>   failure, kept shortly and only for who asks again
-- An item is: id (32), function (8), tries (1 digit), payload. What goes into an inbox is one letter and the rest:
--   W<item>   work, owned by the inbox's node from this moment      R<id><pickle>   E<id><pickle>   C<id><id,id,…>   a cycle
--   N<id><pickle>   to the node that has computed it: a result that nobody is waiting for
local prefix = ARGV[1]
local PENDING, DONE = 80, 82          -- 'P', 'R'
local CHUNK = 2000                    -- arguments in one variadic command: Lua's stack holds 8,000
local INBOX_TTL = 3600000             -- ms; an abandoned client's inbox goes away
local call, sub, byte = redis.call, string.sub, string.byte
local outgoing, popped = {}, {}       -- messages by receiver; nodes that this script has taken off the volunteers

local function tell(who, message)
  local box = outgoing[who]
  if box then box[#box + 1] = message else outgoing[who] = { message } end
end

-- One command with many values; without a key if the values are keys.
local function variadic(command, key, values)
  local n = #values
  if n == 0 then return end
  if not key then
    for i = 1, n, CHUNK do call(command, unpack(values, i, math.min(i + CHUNK - 1, n))) end
    return
  end
  if n <= CHUNK then call(command, key, unpack(values)) return end
  for i = 1, n, CHUNK do call(command, key, unpack(values, i, math.min(i + CHUNK - 1, n))) end
end

-- Rings the bells. Whoever is rung no longer volunteers; whoever is not registered any more gets nothing (a node that volunteered is).
-- `self`, if given, is the node that runs the script: its messages are returned instead, which spares it a round trip.
local function deliver(self, nodes)
  local own = outgoing[self]
  for who, messages in pairs(outgoing) do
    if who ~= self then
      local box = prefix .. 'in:' .. who
      if popped[who] then
        variadic('RPUSH', box, messages)
      else
        local pool = string.match(who, '^([^/]+)/')
        if not pool then
          variadic('RPUSH', box, messages)
          call('PEXPIRE', box, INBOX_TTL)
        elseif call('HEXISTS', nodes, who) == 1 then
          variadic('RPUSH', box, messages)
          if call('SREM', prefix .. 'v:' .. pool, who) == 0 then call('SREM', prefix .. 'vs:' .. pool, who) end
        end
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
    local state = call('GET', prefix .. 'c:' .. id)
    if state and byte(state) == PENDING then
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
  local was = call('SET', key, 'P' .. entry, 'NX', 'GET')
  if not was then return true end
  local kind = byte(was)
  if kind == DONE then
    tell(asker, was)
  elseif kind == PENDING then
    if string.find(was, entry, 2, true) then return false end
    local cycle = parent ~= '' and way(parent, id)
    if cycle then tell(asker, 'C' .. id .. cycle) return false end
    call('APPEND', key, entry)
  elseif again then
    tell(asker, was)
  else
    call('SET', key, 'P' .. entry)
    return true
  end
  return false
end

-- Asks for all calls in the arguments from `first` on: pool, item; or, `made` by calls, pool, parent, item. Those that are new are given
-- to `take(pool, item)`; for the others see `ask`. One command for all if nobody knows any of them yet, which is the usual case.
local function ask_all(asker, first, made, again, take)
  local width = made and 3 or 2
  local span = width * CHUNK / 2
  for from = first, #ARGV, span do
    local upto = math.min(from + span - 1, #ARGV)
    local new, seen, twice, parent, state = {}, {}, false, nil, 'P<' .. asker .. ',>'
    for at = from, upto, width do
      local key = prefix .. 'c:' .. sub(ARGV[at + width - 1], 1, 32)
      if made then
        if ARGV[at + 1] ~= parent then
          parent = ARGV[at + 1]
          state = 'P<' .. asker .. ',' .. parent .. '>'
        end
        twice, seen[key] = twice or seen[key], true
      end
      new[#new + 1] = key
      new[#new + 1] = state
    end
    local fresh = not twice and #new > 2 and call('MSETNX', unpack(new)) == 1
    for at = from, upto, width do
      local item = ARGV[at + width - 1]
      if fresh or ask(sub(item, 1, 32), asker, made and ARGV[at + 1] or '', again) then take(ARGV[at], item) end
    end
  end
end

-- Tells everyone who is in the state of a pending call; once each, however many of an asker's calls wait for it, but not
-- `knowing`. If they are several, returns them, as <asker><asker>….
local seen_state, seen_asker
local function answer(state, message, knowing)
  if state ~= seen_state then       -- one after the other they are mostly the same
    seen_state, seen_asker = state, string.match(state, '^P<([^,]+),[^>]*>$')
  end
  if seen_asker then
    if seen_asker ~= knowing then tell(seen_asker, message) end
    return
  end
  local told, all, count = {}, '', 0
  for asker in string.gmatch(state, '<([^,]+),') do
    if not told[asker] then
      told[asker], all, count = true, all .. '<' .. asker .. '>', count + 1
      if asker ~= knowing then tell(asker, message) end
    end
  end
  return count > 1 and all
end

-- Makes a node the owner of an item and rings its bell.
local function hand(node, item)
  call('HSET', prefix .. 'own:' .. node, sub(item, 1, 32), item)
  tell(node, 'W' .. item)
  popped[node] = true
end

-- Hands the first items[first..last] to volunteers of a pool, one each; returns the index of the first item that is left.
local function hand_over(pool, items, first, last, of_calls)
  local sets = of_calls and { 'v:', 'vs:' } or { 'v:' }
  for _, set in ipairs(sets) do
    if first > last then break end
    for _, node in ipairs(call('SPOP', prefix .. set .. pool, last - first + 1)) do
      hand(node, items[first])
      first = first + 1
    end
  end
  return first
end

-- Hands items[first…] to workers of linked pools below, who count as idle while they volunteer at home; the index of the first left.
local function hand_down(pool, items, first)
  while first <= #items do
    local node = call('SPOP', prefix .. 'vl:' .. pool)
    if not node then break end
    if call('SREM', prefix .. 'v:' .. string.match(node, '^([^/]+)/'), node) == 1 then
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
