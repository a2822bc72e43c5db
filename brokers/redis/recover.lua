-- Puts the messages of dead workers back on one queue, and lets old dead letters go.
-- Constant work where there is nothing to do; no search over the keyspace.
--
-- ARGV: heartbeat timeout (ms), retention of dead letters (ms), namespace, queue, worker
-- Returns: how many messages came back, how many are in flight for the worker that asks

local timeout, retention = tonumber(ARGV[1]), tonumber(ARGV[2])
local namespace, queue = ARGV[3], ARGV[4]
local stock_heartbeats = namespace .. ':__heartbeats__'
local STOCK_TIMEOUT = 60000 -- stock Dramatiq's own: its processes say less often that they live
local WEEK = 7 * 86400000
local recovered = 0

-- Whoever asks lives, however long it was busy.
redis.call('zadd', heartbeats, now, ARGV[5])

local function in_flight_key(worker, queue_name)
    return namespace .. ':__acks__.' .. worker .. '.' .. queue_name
end

local function put_back(worker)
    local in_flight = in_flight_key(worker, queue)
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
end

-- A stock worker holds the delayed messages that it has fetched until they are due.
local function put_back_delayed(worker)
    local delayed = in_flight_key(worker, queue .. '.DQ')
    local ids = redis.call('smembers', delayed)
    for first = 1, #ids, CHUNK do
        local last = math.min(first + CHUNK - 1, #ids)
        schedule_delayed({unpack(ids, first, last)})
    end
    recovered = recovered + #ids
    redis.call('del', delayed)
end

local function queues_of(worker) return namespace .. ':__queues__.' .. worker end

local function forget_worker(registry, worker)
    local queues = queues_of(worker)
    if redis.call('exists', queues) == 1 then
        redis.call('srem', queues, queue)
        if redis.call('exists', queues) == 0 then redis.call('zrem', registry, worker) end
    elseif tonumber(redis.call('zscore', registry, worker)) < now - WEEK then
        -- A stock Dramatiq worker says nowhere what it consumed; its heartbeat stays for a
        -- week, for the consumers of its other queues to see.
        redis.call('zrem', registry, worker)
    end
end

for _, worker in ipairs(redis.call('zrangebyscore', heartbeats, '-inf', now - timeout)) do
    put_back(worker)
    forget_worker(heartbeats, worker)
end

-- Stock Dramatiq's processes, and the workers of an older formrelay, which say what they consume.
for _, worker in ipairs(redis.call('zrangebyscore', stock_heartbeats, '-inf', now - timeout)) do
    local heard = tonumber(redis.call('zscore', stock_heartbeats, worker))
    if redis.call('exists', queues_of(worker)) == 1 or heard < now - STOCK_TIMEOUT then
        put_back(worker)
        put_back_delayed(worker)
        forget_worker(stock_heartbeats, worker)
    end
end

if recovered > 0 then wake_up() end

adopt_dead()
local old = redis.call('zrangebyscore', dead, '-inf', now - retention, 'limit', 0, CHUNK)
if #old > 0 then
    redis.call('zrem', dead, unpack(old))
    redis.call('hdel', dead_bodies, unpack(old))
end

-- A purge that was killed has left some behind.
drop_some()

return {recovered, redis.call('scard', in_flight_key(ARGV[5], queue))}
