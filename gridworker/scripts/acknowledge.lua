#!lua flags=allow-oom
-- purpose    Askers have results safely: from now on their time to live runs. Results whose time is over, or that are too many, go.
-- keys       1 kept
-- arguments  1 prefix   2 ms that an acknowledged result is kept   3 how many are kept at most   then the calls
-- reply      how many results went
-- repeated   starts the time of these results again, except that the first may end it
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local entries = {}
for i = 4, #ARGV do entries[i - 3] = string.format('%013d', now) .. ARGV[i] end
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
