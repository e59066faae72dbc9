#!lua flags=allow-oom
-- purpose    Enters parts of big values into the index of parts, those of arguments with the calls that need them; and lets go parts that no
--            pending call needs, the oldest first, while there are more bytes than are kept, or for longer than they are.
-- keys       1 parts   2 parts:bytes
-- arguments  1 prefix   2 bytes kept at most   3 ms kept at most   4 ms for which a part is kept for a call that has not been made yet
--            then for each part: its name, the note of it or '' (shelf.py), how many calls, the calls; none for a part of a result, which
--            goes with its call's state
-- reply      {names of those parts that are not there, for each part that is not to lie on the shelf any more: its name, its note}
-- repeated   enters the same again
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local most, eldest, fresh = tonumber(ARGV[2]), now - tonumber(ARGV[3]), now - tonumber(ARGV[4])
local bytes = tonumber(redis.call('GET', KEYS[2]) or '0')
local missing, gone, entered, at = {}, {}, 0, 5

-- The bytes of a part, 0 if it is not there; and the note, if that is what is kept here.
local function weigh(part)
  local size = redis.call('STRLEN', part)
  if size == 0 or size > 64 then return size end
  local note = redis.call('GET', part)
  return tonumber(string.match(note, '^@(%d+)')) or size, note
end

local function let_go(name, note)
  gone[#gone + 1] = name
  gone[#gone + 1] = note
end

while at < #ARGV do
  local name, note, calls = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local part = prefix .. 'b:' .. name
  if note ~= '' then redis.call('SET', part, note, 'NX') end
  local size, there = weigh(part)
  if note ~= '' and note ~= there then let_go(name, note) end     -- somebody else's is there
  if size == 0 then
    missing[#missing + 1] = name
  else
    redis.call('PERSIST', part)
    if redis.call('ZADD', KEYS[1], now, name) == 1 then bytes = bytes + size end
    local needs = {}
    for i = at + 3, at + 2 + calls do
      needs[#needs + 1] = ARGV[i]
      needs[#needs + 1] = now
    end
    variadic('HSET', prefix .. 'need:' .. name, needs)
    entered = entered + 1
  end
  at = at + 3 + calls
end

-- Whether a call is pending that needs the part, or may soon be. Calls that are not are forgotten; beyond a hundred the next script goes on.
local function needed(name)
  if string.sub(name, 33, 33) == '.' then
    local state = prefix .. 'c:' .. string.sub(name, 1, 32)
    if redis.call('GETRANGE', state, 0, 0) == 'R' then redis.call('UNLINK', state) end
    return false
  end
  local calls = prefix .. 'need:' .. name
  for _ = 1, 100 do
    local found = redis.call('HRANDFIELD', calls, 1, 'WITHVALUES')
    if #found == 0 then return false end
    local state = redis.call('GETRANGE', prefix .. 'c:' .. found[1], 0, 0)
    if state == 'P' or (state ~= 'R' and tonumber(found[2]) > fresh) then return true end
    redis.call('HDEL', calls, found[1])
  end
  return true
end

local last
for _ = 1, most == 0 and CHUNK or 8 + 2 * entered do        -- a bounded part of what is due, more than is added: so it comes to an end
  local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  if #oldest == 0 then bytes = 0 break end
  if bytes <= most and tonumber(oldest[2]) > eldest then break end
  local name = oldest[1]
  if needed(name) then
    last = 0.001 + (last or math.max(now, tonumber(redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2])))
    redis.call('ZADD', KEYS[1], last, name)     -- behind all others, those of this millisecond too
  else
    local size, note = weigh(prefix .. 'b:' .. name)
    bytes = bytes - size
    if note then let_go(name, note) end
    redis.call('UNLINK', prefix .. 'b:' .. name, prefix .. 'need:' .. name)
    redis.call('ZREM', KEYS[1], name)
  end
end
redis.call('SET', KEYS[2], bytes)
return { missing, gone }
