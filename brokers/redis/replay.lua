-- Puts one dead letter back on its queue.
--
-- ARGV: id, body
-- Returns: 1, or 0 where there is no such dead letter

local id = ARGV[1]
if redis.call('zrem', dead, id) == 0 then return 0 end
redis.call('hdel', dead_bodies, id)
push_back(wait_under(id, ARGV[2]))
wake_up()
return 1
