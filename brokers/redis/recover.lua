-- Puts the messages of dead workers back on one queue, and lets old dead letters go.
-- Constant work where there is nothing to do; no search over the keyspace.
--
-- ARGV: heartbeat timeout (ms), retention of dead letters (ms), namespace, queue, worker
-- Returns: how many messages came back

local timeout, retention = tonumber(ARGV[1]), tonumber(ARGV[2])
local namespace, queue = ARGV[3], ARGV[4]
local recovered = 0

-- Whoever asks lives, however long it was busy.
redis.call('zadd', heartbeats, now, ARGV[5])

for _, worker in ipairs(redis.call('zrangebyscore', heartbeats, '-inf', now - timeout)) do
    local in_flight = namespace .. ':__acks__.' .. worker .. '.' .. queue
    for _, id in ipairs(redis.call('smembers', in_flight)) do
        if redis.call('hexists', bodies, id) == 1 then
            -- At the front: they have waited longest. Any of them may be what killed the
            -- worker, so each counts as having killed one.
            push_front(id)
            redis.call('hsetnx', suspects, id, 1)
            recovered = recovered + 1
        end
    end
    redis.call('del', in_flight)

    local queues = namespace .. ':__queues__.' .. worker
    if redis.call('exists', queues) == 1 then
        redis.call('srem', queues, queue)
        if redis.call('exists', queues) == 0 then redis.call('zrem', heartbeats, worker) end
    elseif tonumber(redis.call('zscore', heartbeats, worker)) < now - 7 * 86400000 then
        -- A stock Dramatiq worker says nowhere what it consumed; its heartbeat stays for a
        -- week, for the consumers of its other queues to see.
        redis.call('zrem', heartbeats, worker)
    end
end

if recovered > 0 then wake_up() end

local old = redis.call('zrangebyscore', dead, '-inf', now - retention, 'limit', 0, CHUNK)
if #old > 0 then
    redis.call('zrem', dead, unpack(old))
    redis.call('hdel', dead_bodies, unpack(old))
end

return recovered
