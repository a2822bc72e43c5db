-- Requeues dead letters.
--
-- ARGV: three for each message: id, priority ('' for none), body
-- Returns: number of requeued messages; the others no longer exist

local replayed = 0
for i = 1, #ARGV, 3 do
    local id, priority, body = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    if redis.call('zrem', dead, id) == 1 then
        redis.call('hdel', dead_bodies, id)
        id = add_waiting(id, body)
        set_priority(id, priority)
        push_back(id)
        replayed = replayed + 1
    end
end
if replayed > 0 then wake_up() end
return replayed
