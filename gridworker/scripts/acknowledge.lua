#!lua flags=allow-oom
-- purpose    An asker has results safely. Where all who were waiting for one have, or are nodes that are gone, its time to live runs
--            from now on. Results whose time is over, or that are too many, go.
-- keys       1 kept   2 unheard   3 nodes
-- arguments  1 prefix   2 ms that an acknowledged result is kept   3 how many are kept at most   4 the asker
--            then batches of what it has: a letter and a call each, R<id> or, of a result that is long, L<id>
-- reply      how many results went
-- repeated   starts the time of these results again, except that the first may end it
local HEAD, EACH, CALL = 28, 33, 32     -- an entry of `kept`: ms (13 digits), how many have been entered so far (15), batch
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local last = redis.call('LINDEX', KEYS[1], -1)
local before = last and tonumber(sub(last, 14, HEAD)) or 0
local total, entries = before, {}

-- Lets the time of a batch run.
local function enter(batch)
  if batch == '' then return end
  total = total + #batch / EACH
  entries[#entries + 1] = string.format('%013d%015d', now, total) .. batch
end

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

-- What of a batch nobody else waits for.
local function unawaited(batch)
  local calls, found = {}, {}
  for at = 1, #batch, EACH do calls[#calls + 1] = sub(batch, at + 1, at + CALL) end
  for first = 1, #calls, CHUNK do
    local askers = redis.call('HMGET', KEYS[2], unpack(calls, first, math.min(first + CHUNK - 1, #calls)))
    for i, known in ipairs(askers) do
      local n = first + i - 1
      if not (known and awaited(calls[n], known, ARGV[4])) then found[#found + 1] = sub(batch, n * EACH - CALL, n * EACH) end
    end
  end
  return table.concat(found)
end

-- Some of those that wait for their last asker: whose nodes are gone by now, or whose result is, because a client never came back.
-- As long as many are found there are more.
local function look_around()
  local found, left, free = 20, CHUNK, {}
  while found >= 5 and left > 0 do
    local some = redis.call('HRANDFIELD', KEYS[2], 20, 'WITHVALUES') or {}
    found, left = 0, left - 20
    for i = 1, #some, 2 do
      if redis.call('GETRANGE', prefix .. 'c:' .. some[i], 0, 0) ~= 'R' then
        found = found + redis.call('HDEL', KEYS[2], some[i])
      elseif not awaited(some[i], some[i + 1], nil) then
        free[#free + 1] = 'L' .. some[i]
        found = found + 1
      end
    end
  end
  enter(table.concat(free))
end

if redis.call('EXISTS', KEYS[2]) == 0 then
  for i = 5, #ARGV do enter(ARGV[i]) end
else
  for i = 5, #ARGV do enter(unawaited(ARGV[i])) end
  look_around()
end
variadic('RPUSH', KEYS[1], entries)

-- Lets the results of a batch go, and says how many those were. The same call may be pending again: its result was gone already, and
-- somebody has asked anew. Short ones are looked at whole, since that is one command for all of them.
local function let_go(entry)
  local short, old = {}, {}
  for at = HEAD + 1, #entry, EACH do
    local key = prefix .. 'c:' .. sub(entry, at + 1, at + CALL)
    if byte(entry, at) == DONE then
      short[#short + 1] = key
    elseif redis.call('GETRANGE', key, 0, 0) == 'R' then
      old[#old + 1] = key
    end
  end
  for first = 1, #short, CHUNK do
    for i, state in ipairs(redis.call('MGET', unpack(short, first, math.min(first + CHUNK - 1, #short)))) do
      if state and byte(state) == DONE then old[#old + 1] = short[first + i - 1] end
    end
  end
  variadic('UNLINK', nil, old)
  return #old
end

local most, eldest, gone = tonumber(ARGV[3]), now - tonumber(ARGV[2]), 0
local left = CHUNK + 2 * (total - before)               -- a bounded part of what is due: who comes next goes on
while left > 0 do
  local entry = redis.call('LINDEX', KEYS[1], 0)
  if not entry then break end
  local size = (#entry - HEAD) / EACH
  local upto = tonumber(sub(entry, 14, HEAD))           -- none: what a release of before has left on a disk
  if upto and total - upto + size <= most and tonumber(sub(entry, 1, 13)) > eldest then break end
  redis.call('LPOP', KEYS[1])
  gone = gone + let_go(entry)
  left = left - size
end
return gone
