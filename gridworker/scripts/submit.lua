-- purpose    A client asks for calls: new ones go to volunteers or into their pool, known ones are joined or answered at once.
-- keys       1 nodes
-- arguments  1 prefix   2 the asking client   3 '1' if it asks again after it may have missed answers
--            then for each call: pool, item
-- reply      how many of the calls were new
-- repeated   asks the same again: a pending call has the asker already, a finished one is answered once more (the client ignores it)
local client, again = ARGV[2], ARGV[3] == '1'
local pools, order, new = {}, {}, 0
ask_all(client, 4, false, again, function(pool, item)
  local items = pools[pool]
  if not items then items = {} pools[pool] = items order[#order + 1] = pool end
  items[#items + 1] = item
  new = new + 1
end)
for _, pool in ipairs(order) do into_pool(pool, pools[pool], false) end
deliver(nil, KEYS[1])
return new
