-- Puts one dead letter back on its queue.
--
-- KEYS: dead, dead bodies, waiting, bodies, wake, sequence
-- ARGV: id, body
-- Returns: 1, or 0 where there is no such dead letter

local dead, dead_bodies, waiting, bodies, wake, sequence = unpack(KEYS)
local id = ARGV[1]
if redis.call('zrem', dead, id) == 0 then return 0 end
redis.call('hdel', dead_bodies, id)
if redis.call('hsetnx', bodies, id, ARGV[2]) == 0 then
    id = id .. '~' .. redis.call('incr', sequence)
    redis.call('hset', bodies, id, ARGV[2])
end
redis.call('rpush', waiting, id)
redis.call('zadd', wake, 0, 'w')
return 1
