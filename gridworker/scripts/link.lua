-- purpose    Links a pool to a parent: its idle workers volunteer there too, and what it is too full for goes up to it.
-- keys       1 nodes   2 pools   3 links
-- arguments  1 prefix   2 the pool   3 its parent
-- reply      1 if that is new, 0 if it was so; an error if the pool would stand above itself
-- repeated   changes nothing
local above = ARGV[3]
while above do
  if above == ARGV[2] then return redis.error_reply('CYCLE pool ' .. ARGV[2] .. ' would stand above itself') end
  above = redis.call('HGET', KEYS[3], above)
end
redis.call('SADD', KEYS[2], ARGV[2], ARGV[3])
if redis.call('HGET', KEYS[3], ARGV[2]) == ARGV[3] then return 0 end
redis.call('HSET', KEYS[3], ARGV[2], ARGV[3])
local nodes = redis.call('HGETALL', KEYS[1])
for i = 1, #nodes, 2 do
  if string.find(nodes[i + 1], '"kind": "worker"', 1, true) then tell(nodes[i], 'L') end     -- they look who stands above them now
end
deliver(nil, KEYS[1])
return 1
