#!lua flags=allow-oom
-- purpose    An asker has results safely. Where all who were waiting for one have, or are nodes that are gone, its time to live runs
--            from now on. Results whose time is over, or that are too many, go.
-- keys       1 kept   2 unheard   3 nodes
-- arguments  1 prefix   2 ms that an acknowledged result is kept   3 how many are kept at most   4 the asker   then the calls
-- reply      how many results went
-- repeated   starts the time of these results again, except that the first may end it
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local stamp, entries = string.format('%013d', now), {}

-- Whether others than `hearer` who were waiting for a result have not heard of it; `askers` are those who may not have.
local function awaited(call, askers, hearer)
  local left = ''
  for asker in string.gmatch(askers, '<([^>]+)>') do
    local gone = asker == hearer or (string.find(asker, '/', 1, true) and redis.call('HEXISTS', KEYS[3], asker) == 0)
    if not gone then left = left .. '<' .. asker .. '>' end
  end
  if left == '' then
    redis.call('HDEL', KEYS[2], call)
  elseif left ~= askers then
    redis.call('HSET', KEYS[2], call, left)
  end
  return left ~= ''
end

-- Some of those that wait for their last asker: whose nodes are gone by now, or whose result is, because a client never came back.
-- As long as many are found there are more.
local function look_around()
  local found, left = 20, CHUNK
  while found >= 5 and left > 0 do
    local some = redis.call('HRANDFIELD', KEYS[2], 20, 'WITHVALUES') or {}
    found, left = 0, left - 20
    for i = 1, #some, 2 do
      if redis.call('GETRANGE', prefix .. 'c:' .. some[i], 0, 0) ~= 'R' then
        found = found + redis.call('HDEL', KEYS[2], some[i])
      elseif not awaited(some[i], some[i + 1], nil) then
        entries[#entries + 1] = stamp .. some[i]
        found = found + 1
      end
    end
  end
end

if redis.call('EXISTS', KEYS[2]) == 0 then
  for i = 5, #ARGV do entries[i - 4] = stamp .. ARGV[i] end
else
  for first = 5, #ARGV, CHUNK do
    local last = math.min(first + CHUNK - 1, #ARGV)
    local askers = redis.call('HMGET', KEYS[2], unpack(ARGV, first, last))
    for i = first, last do
      local known = askers[i - first + 1]
      if not (known and awaited(ARGV[i], known, ARGV[4])) then entries[#entries + 1] = stamp .. ARGV[i] end
    end
  end
  look_around()
end
variadic('RPUSH', KEYS[1], entries)

local over = redis.call('LLEN', KEYS[1]) - tonumber(ARGV[3])
local eldest, gone = now - tonumber(ARGV[2]), 0
local left, size = CHUNK + 2 * #entries, 16                -- a bounded part of what is due: who comes next goes on
while left > 0 do
  local old, n = {}, 0
  for _, entry in ipairs(redis.call('LRANGE', KEYS[1], 0, size - 1)) do
    if n >= over and tonumber(string.sub(entry, 1, 13)) > eldest then break end
    local key = prefix .. 'c:' .. string.sub(entry, 14)
    -- the same call may be pending again: its result was gone already, and somebody has asked anew
    if redis.call('GETRANGE', key, 0, 0) == 'R' then old[#old + 1] = key end
    n = n + 1
  end
  if n > 0 then redis.call('LPOP', KEYS[1], n) end
  variadic('UNLINK', nil, old)
  gone, over = gone + #old, over - n
  if n < size then break end
  left, size = left - n, math.min(CHUNK, 4 * size)
end
return gone
