-- purpose    One step of a worker, all of it at once: completes calls, gives back what it has not started, asks for calls that its calls
--            made, drains its inbox, takes work (own queue newest first; then calls of calls in the pool; then fresh ones; then the
--            oldest of somebody else's own queue), and volunteers if there was nothing.
-- keys       1 nodes   2 own   3 mine   4 inbox   5 up   6 q   7 busy   8 v   9 vs   10 executed
-- arguments  1 prefix   2 incarnation   3 pool   4 name   5 ms that a result is kept   6 ms that a failure is kept
--            7 how many items it wants at most   8 the function of which it wants several; of any other it takes one
--            9 'idle' if it will wait for its bell   10 '1' if at its cap of parked calls: takes no fresh call
--            11 '1' if it asks again   12 number of completions   13 number of items given back   14 calls executed since the last step
--            then completions: 'R' or 'E', id, pickle; items given back; then asks: pool ('' is its own queue), parent, item
-- reply      {messages, items}; or 'gone' if the grid has given this incarnation up (its successes have counted nevertheless)
-- repeated   completions, asks and what is given back change nothing the second time; it may take more work: what it owns it finds with resync
local me, pool = ARGV[2], ARGV[3]
local want, token, idle, capped, again = tonumber(ARGV[7]), ARGV[8], ARGV[9] == 'idle', ARGV[10] == '1', ARGV[11] == '1'
local completions, returned = tonumber(ARGV[12]), tonumber(ARGV[13])
local alive = redis.call('HEXISTS', KEYS[1], me) == 1
local at, finished = 15, {}

for _ = 1, completions do
  local kind, id, body = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local key, was = prefix .. 'c:' .. id, nil
  if kind == 'R' then           -- a success counts whoever owns the call now
    was = redis.call('SET', key, 'R' .. body, 'PX', ARGV[5], 'GET')
  elseif redis.call('HEXISTS', KEYS[2], id) == 1 then   -- a failure only from the owner
    was = redis.call('GET', key)
    if was and string.byte(was) == PENDING then redis.call('SET', key, 'E' .. body, 'PX', ARGV[6]) end
  end
  if was and string.byte(was) == PENDING then answer(was, kind .. id .. body) end
  finished[#finished + 1] = id
  at = at + 3
end
variadic('HDEL', KEYS[2], finished)
if ARGV[14] ~= '0' then redis.call('HINCRBY', KEYS[10], ARGV[4], ARGV[14]) end
if not alive then
  deliver(nil, KEYS[1])
  return 'gone'
end

local mine = {}                 -- for the own queue, oldest first
for _ = 1, returned do
  if redis.call('HDEL', KEYS[2], string.sub(ARGV[at], 1, 32)) == 1 then mine[#mine + 1] = ARGV[at] end
  at = at + 1
end
local pools = {}
for i = at, #ARGV, 3 do
  local to, item = ARGV[i], ARGV[i + 2]
  if ask(string.sub(item, 1, 32), me, ARGV[i + 1], again) then
    if to == '' then
      mine[#mine + 1] = item
    else
      pools[to] = pools[to] or {}
      table.insert(pools[to], item)
    end
  end
end
for to, items in pairs(pools) do into_pool(to, items, true) end
if #mine > 0 then               -- help that is free gets the oldest, but the newest stays here if this worker is about to take it
  local last = want > 0 and #mine - 1 or #mine
  local kept = {}
  for i = hand_over(pool, mine, 1, last, true), #mine do kept[#kept + 1] = mine[i] end
  if #kept > 0 then
    variadic('LPUSH', KEYS[3], kept)
    redis.call('SADD', KEYS[7], me)
  end
end

local messages = deliver(me, KEYS[1])
for _, message in ipairs(redis.call('LPOP', KEYS[4], 1000) or {}) do
  messages[#messages + 1] = message
end

-- Takes from the left of a list: one item of any function, or several in a row of the one that is asked for.
local function take(list, n)
  if n == 1 then
    local item = redis.call('LPOP', list)
    return item and { item } or {}
  end
  local items = redis.call('LRANGE', list, 0, n - 1)
  local k = #items
  if k > 1 then
    k = 1
    if string.sub(items[1], 33, 40) == token then
      while items[k + 1] and string.sub(items[k + 1], 33, 40) == token do k = k + 1 end
    end
    for i = #items, k + 1, -1 do items[i] = nil end
  end
  if k > 0 then redis.call('LPOP', list, k) end
  return items
end

-- Takes the oldest, at most half, of somebody's own queue.
local function steal(n)
  for _ = 1, 3 do
    local victim = redis.call('SRANDMEMBER', KEYS[7])
    if not victim then return {} end
    local list = prefix .. 'mine:' .. victim
    local items = {}
    local length = victim ~= me and redis.call('LLEN', list) or 0
    for _ = 1, math.min(n, math.ceil(length / 2)) do
      local item = redis.call('LINDEX', list, -1)
      if #items > 0 and (string.sub(item, 33, 40) ~= token or string.sub(items[1], 33, 40) ~= token) then break end
      items[#items + 1] = redis.call('RPOP', list)
    end
    if #items > 0 then return items end
    redis.call('SREM', KEYS[7], victim)
  end
  return {}
end

local items = {}
if want > 0 then
  items = take(KEYS[3], want)
  if #items == 0 then items = take(KEYS[5], want) end
  if #items == 0 and not capped then items = take(KEYS[6], want) end
  if #items == 0 then items = steal(want) end
  if #items > 0 then
    local owned = {}
    for i, item in ipairs(items) do
      owned[2 * i - 1] = string.sub(item, 1, 32)
      owned[2 * i] = item
    end
    variadic('HSET', KEYS[2], owned)
  end
end
if idle then
  if #items == 0 and #messages == 0 then
    redis.call('SADD', capped and KEYS[9] or KEYS[8], me)
  else                          -- it may have woken by itself, and then volunteers still
    redis.call('SREM', KEYS[8], me)
    redis.call('SREM', KEYS[9], me)
  end
end
return { messages, items }
