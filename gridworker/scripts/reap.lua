#!lua flags=allow-oom
-- purpose    An incarnation is dead or leaves: all that it owned or had queued goes back to its pool, before fresh calls.
-- keys       1 nodes   2 own   3 mine   4 inbox   5 busy   6 v   7 vs
-- arguments  1 prefix   2 incarnation   3 its pool   4 'dead' (what it owned has lost a try) or 'left'
--            5 tries allowed (1 … 9)   6 ms that a failure is kept   7 pickle of the failure of calls that have no try left
--            8 the call that it was computing: only that one has lost a try; '' if that is not known
-- reply      {items requeued, calls given up}; {-1, 0} if the incarnation was not registered
-- repeated   finds nothing
if redis.call('HDEL', KEYS[1], ARGV[2]) == 0 then return { -1, 0 } end
local pool, dead, allowed, culprit = ARGV[3], ARGV[4] == 'dead', tonumber(ARGV[5]), ARGV[8]
local owned = redis.call('HVALS', KEYS[2])
local queued = redis.call('LRANGE', KEYS[3], 0, -1)
for i = 5, 7 do redis.call('SREM', KEYS[i], ARGV[2]) end
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4])

local back, given_up = {}, 0
for _, item in ipairs(owned) do
  local id = string.sub(item, 1, 32)
  local key = prefix .. 'c:' .. id
  local state = redis.call('GET', key)
  if state and string.byte(state) == PENDING then
    local tries = tonumber(string.sub(item, 41, 41)) + (dead and (culprit == '' or culprit == id) and 1 or 0)
    if tries >= allowed then
      local outcome = 'E' .. id .. ARGV[7]
      redis.call('SET', key, outcome, 'PX', ARGV[6])
      answer(state, outcome)
      given_up = given_up + 1
    else
      back[#back + 1] = string.sub(item, 1, 40) .. tries .. string.sub(item, 42)
    end
  end
end
for i = #queued, 1, -1 do back[#back + 1] = queued[i] end   -- the own queue is newest first
into_pool(pool, back, true)
deliver(nil, KEYS[1])
return { #back, given_up }
