-- purpose    One step of a worker, all of it at once: completes calls, gives back what it has not started, asks for calls that its calls
--            made, drains its inbox, takes work (own queue newest first; then calls of calls in the pool; then fresh ones; then the
--            oldest of somebody else's own queue), and volunteers if there was nothing.
-- keys       1 nodes   2 own   3 mine   4 inbox   5 up   6 q   7 busy   8 v   9 vs   10 executed
-- arguments  1 prefix   2 incarnation   3 pool   4 name   5 ms that a result is kept   6 ms that a failure is kept
--            7 how many items it wants at most   8 the function of which it wants several; of any other it takes one
--            9 'idle' if it will wait for its bell   10 '1' if at its cap of parked calls: takes no fresh call
--            11 '1' if it asks again   12 number of completions   13 number of items given back
--            14 how many fresh calls it takes although it has others   15 of how many completions it knows itself: the first
--            then completions: outcomes, as inboxes have them; items given back; then asks: pool ('' is its own queue), parent, item
-- reply      {messages, items}; or 'gone' if the grid has given this incarnation up (its successes have counted nevertheless)
-- repeated   completions, asks and what is given back change nothing the second time; it may take more work: what it owns it finds with resync
local me, pool = ARGV[2], ARGV[3]
local want, token, idle, capped, again = tonumber(ARGV[7]), ARGV[8], ARGV[9] == 'idle', ARGV[10] == '1', ARGV[11] == '1'
local completions, returned, spare = tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14])
local alive = call('HEXISTS', KEYS[1], me) == 1
local known = tonumber(ARGV[15])
local at, finished, shared = 16, {}, {}

for i = 1, completions do
  local outcome, was = ARGV[at], nil
  local success, id = byte(outcome) == DONE, sub(outcome, 2, 33)
  local key = prefix .. 'c:' .. id
  if success then               -- a success counts whoever owns the call now
    was = call('SET', key, outcome, 'PX', ARGV[5], 'GET')
  elseif call('HEXISTS', KEYS[2], id) == 1 then   -- a failure only from the owner
    was = call('GET', key)
    if was and byte(was) == PENDING then call('SET', key, outcome, 'PX', ARGV[6]) end
  end
  if success and not was then tell(me, 'N' .. sub(outcome, 2)) end       -- cancelled while it ran, mostly: nobody will hear of it
  local several = was and byte(was) == PENDING and answer(was, outcome, i <= known and me)
  if several and success then
    shared[#shared + 1] = id
    shared[#shared + 1] = several
  end
  finished[i] = id
  at = at + 1
end
variadic('HDEL', KEYS[2], finished)
variadic('HSET', prefix .. 'unheard', shared)   -- until the last of them has the result, see acknowledge.lua
if completions > 0 then call('HINCRBY', KEYS[10], ARGV[4], completions) end
if not alive then
  deliver(nil, KEYS[1])
  return 'gone'
end

local mine = {}                 -- for the own queue, oldest first
for first = 1, returned, CHUNK do
  local ids = {}
  for i = 1, math.min(CHUNK, returned - first + 1) do ids[i] = sub(ARGV[at + i - 1], 1, 32) end
  for i, owned in ipairs(call('HMGET', KEYS[2], unpack(ids))) do
    if owned and owned ~= 'K' then mine[#mine + 1] = ARGV[at + i - 1] end       -- K: the mark of a cancelled one, see cancel.lua
  end
  variadic('HDEL', KEYS[2], ids)
  at = at + #ids
end
if at <= #ARGV then
  local pools = {}
  ask_all(me, at, true, again, function(to, item)
    if to == '' then
      mine[#mine + 1] = item
    else
      pools[to] = pools[to] or {}
      table.insert(pools[to], item)
    end
  end)
  for to, items in pairs(pools) do into_pool(to, items, true) end
end

-- How many items a worker takes of those that lie ready: one of any function, or several in a row of the one that is asked for.
-- `from` and `by`: where they begin, and which way.
local function row(items, from, by, n)
  local k = items[from] and 1 or 0
  if k == 1 and n > 1 and sub(items[from], 33, 40) == token then
    while k < n and items[from + k * by] and sub(items[from + k * by], 33, 40) == token do k = k + 1 end
  end
  return k
end

local items = {}
if #mine > 0 then               -- help that is free gets the oldest, but the newest stays here if this worker is about to take it
  local first, last = hand_over(pool, mine, 1, want > 0 and #mine - 1 or #mine, true), #mine
  for i = 1, want > 0 and row(mine, last, -1, math.min(want, last - first + 1)) or 0 do
    items[i] = mine[last]
    last = last - 1
  end
  if last >= first then
    for i = first, last, CHUNK do call('LPUSH', KEYS[3], unpack(mine, i, math.min(i + CHUNK - 1, last))) end
    call('SADD', KEYS[7], me)
  end
end

local messages = deliver(me, KEYS[1])
for _, message in ipairs(call('LPOP', KEYS[4], 1000) or {}) do
  messages[#messages + 1] = message
end

-- Takes from the left of a list.
local function take(list, n)
  if n == 1 then
    local item = call('LPOP', list)
    return item and { item } or {}
  end
  local found = call('LRANGE', list, 0, n - 1)
  local k = row(found, 1, 1, n)
  for i = #found, k + 1, -1 do found[i] = nil end
  if k > 0 then call('LTRIM', list, k, -1) end
  return found
end

-- Takes the oldest, at most half, of somebody's own queue.
local function steal(n)
  for _ = 1, 3 do
    local victim = call('SRANDMEMBER', KEYS[7])
    if not victim then return {} end
    local list = prefix .. 'mine:' .. victim
    local length = victim ~= me and call('LLEN', list) or 0
    if length > 0 then
      local oldest = call('LRANGE', list, -math.min(n, math.ceil(length / 2)), -1)
      local found = {}
      for i = 1, row(oldest, #oldest, -1, #oldest) do found[i] = oldest[#oldest + 1 - i] end
      call('LTRIM', list, 0, -#found - 1)
      return found
    end
    call('SREM', KEYS[7], victim)
  end
  return {}
end

-- Adds fresh calls of the same function, at most half of them: the fewer the steps, the less each call costs, but others want some, too.
local function fill(n)
  if n < 1 or sub(items[1], 33, 40) ~= token then return end
  local lying = call('LLEN', KEYS[6])
  if lying == 0 then return end
  local found = call('LRANGE', KEYS[6], 0, math.min(n, math.ceil(lying / 2)) - 1)
  local k = 0
  while found[k + 1] and sub(found[k + 1], 33, 40) == token do
    k = k + 1
    items[#items + 1] = found[k]
  end
  if k > 0 then call('LTRIM', KEYS[6], k, -1) end
end

if want > 0 then
  if #items == 0 then items = take(KEYS[3], want) end
  if #items == 0 then items = take(KEYS[5], want) end
  if #items == 0 and not capped then items = take(KEYS[6], want) end
  if #items == 0 then items = steal(want) end
  if #items > 0 then
    fill(math.min(spare, want - #items))
    local owned = {}
    for i, item in ipairs(items) do
      owned[2 * i - 1] = sub(item, 1, 32)
      owned[2 * i] = item
    end
    variadic('HSET', KEYS[2], owned)
  end
end
if idle then
  if #items == 0 and #messages == 0 then
    call('SADD', capped and KEYS[9] or KEYS[8], me)
  else                          -- it may have woken by itself, and then volunteers still
    call('SREM', KEYS[8], me)
    call('SREM', KEYS[9], me)
  end
end
return { messages, items }
