-- purpose    Somebody enters the grid and says which wire format it speaks, before it writes anything. The first to come fixes the grid's.
-- keys       1 wire   2 nodes   3 kept   4 refused
-- arguments  1 prefix   2 its format   3 its version of gridworker   4 ms for which clients can be told that it was refused; '' for a client
-- reply      {format, version, node} of whom it would not understand: the grid, or that node of it; version '' for what a release that fixed
--            no format has left; nothing if there is nobody
-- repeated   says the same
local mine, version = ARGV[2], ARGV[3]

local function stranger()
  local fixed = call('GET', KEYS[1])
  local format, by = string.match(fixed or '', '^(%d+) (.*)$')
  if fixed and format ~= mine then return { format or '0', by or 'unknown', '' } end
  for _, told in ipairs(call('HVALS', KEYS[2])) do      -- nodes of a release that does not look here
    local theirs = string.match(told, '"wire": (%d+)') or '0'
    if theirs ~= mine then
      return { theirs, string.match(told, '"version": "([^"]*)"') or 'unknown', string.match(told, '"name": "([^"]*)"') or 'unknown' }
    end
  end
  local last = not fixed and call('LINDEX', KEYS[3], -1)
  if last and (#last - 28) % 33 ~= 0 then return { '0', '', '' } end     -- see acknowledge.lua
  -- a server that takes no writes now is no reason to be refused: whoever comes later fixes the format then
  if not fixed then redis.pcall('SET', KEYS[1], mine .. ' ' .. version) end
end

local found = stranger()
if found and ARGV[4] ~= '' then redis.pcall('SET', KEYS[4], mine .. ' ' .. version, 'PX', ARGV[4]) end
return found or {}
