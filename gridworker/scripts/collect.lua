-- purpose    A client wants the outcome of calls of which it has only the ids, as a client that has lost its memory does.
-- keys       1 nodes
-- arguments  1 prefix   2 the client   3 pickle of the failure of calls that are not known (any more)   then the calls
-- reply      how many are pending
-- repeated   tells finished ones once more, joins pending ones once
local client, pending = ARGV[2], 0
for i = 4, #ARGV do
  local id = ARGV[i]
  local key = prefix .. 'c:' .. id
  local state = redis.call('GET', key)
  local kind = state and string.byte(state)
  if kind == PENDING then
    local entry = '<' .. client .. ',>'
    if not string.find(state, entry, 1, true) then redis.call('APPEND', key, entry) end
    pending = pending + 1
  elseif kind == DONE then
    tell(client, state)
  else
    tell(client, state or 'E' .. id .. ARGV[3])
  end
end
deliver(nil, KEYS[1])
return pending
