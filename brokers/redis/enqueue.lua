-- Writes messages to one queue, all or none.
--
-- KEYS: waiting, bodies, scheduled, scheduled bodies, wake, sequence
-- ARGV: then three for each message: id, due (unix ms, '' for at once), body

local waiting, bodies, scheduled, scheduled_bodies, wake, sequence = unpack(KEYS)
local awake = false

for i = 1, #ARGV, 3 do
    local id, due, body = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    local hash = bodies
    if due ~= '' then hash = scheduled_bodies end

    -- The same id twice is two messages: overwriting the first would lose it.
    if redis.call('hsetnx', hash, id, body) == 0 then
        id = id .. '~' .. redis.call('incr', sequence)
        redis.call('hset', hash, id, body)
    end

    if due == '' then
        redis.call('rpush', waiting, id)
        awake = true
    else
        redis.call('zadd', scheduled, due, id)
        -- An idle worker sleeps until the first due time it knew of; an earlier one wakes it.
        awake = awake or redis.call('zrange', scheduled, 0, 0)[1] == id
    end
end

if awake then redis.call('zadd', wake, 0, 'w') end
