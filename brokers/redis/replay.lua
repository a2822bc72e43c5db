-- Puts dead letters back on their queue.
--
-- ARGV: three for each: id, priority ('' for none), body
-- Returns: how many there still were

local replayed = 0
for i = 1, #ARGV, 3 do
    local id, level, body = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    if redis.call('zrem', dead, id) == 1 then
        redis.call('hdel', dead_bodies, id)
        id = wait_under(id, body)
        set_priority(id, level)
        push_back(id)
        replayed = replayed + 1
    end
end
if replayed > 0 then wake_up() end
return replayed
