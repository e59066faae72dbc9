-- purpose    Which node has been handed a call and has not finished it.
-- keys       1 nodes
-- arguments  1 prefix   2 the call's id
-- reply      the node's incarnation, or nil
-- repeated   reads only
for _, node in ipairs(redis.call('HKEYS', KEYS[1])) do
  if redis.call('HEXISTS', prefix .. 'own:' .. node, ARGV[2]) == 1 then return node end
end
return nil
