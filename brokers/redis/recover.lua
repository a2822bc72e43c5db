-- Requeues the messages of dead workers on one queue, and deletes expired dead letters.
-- Takes constant time if there is nothing to do; scans no keyspace.
--
-- ARGV: heartbeat timeout (ms), retention of dead letters (ms), namespace, queue, calling worker
-- Returns: number of requeued messages, number of messages in flight for the calling worker

local timeout, retention = tonumber(ARGV[1]), tonumber(ARGV[2])
local namespace, queue = ARGV[3], ARGV[4]
local stock_heartbeats = namespace .. ':__heartbeats__'
local STOCK_TIMEOUT = 60000 -- of stock Dramatiq, whose heartbeats are less frequent
local WEEK = 7 * 86400000
local recovered = 0

-- The calling worker is alive, even if its last heartbeat is old.
redis.call('zadd', heartbeats, now, ARGV[5])

local function in_flight_key(worker, queue_name)
    return namespace .. ':__acks__.' .. worker .. '.' .. queue_name
end

local function requeue_all(worker)
    local in_flight = in_flight_key(worker, queue)
    for _, id in ipairs(redis.call('smembers', in_flight)) do
        if redis.call('hexists', bodies, id) == 1 then
            -- At the front: they have waited longest. Any of these messages may have killed the
            -- worker, so that each becomes a suspect.
            push_front(id)
            redis.call('hsetnx', suspects, id, 1)
            recovered = recovered + 1
        end
    end
    redis.call('del', in_flight)
end

-- A stock worker keeps delayed messages in memory until they are due.
local function requeue_delayed(worker)
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
        -- The queues of a stock worker are not known. Its heartbeat is kept for a week, so that
        -- the consumers of its other queues recover its messages as well.
        redis.call('zrem', registry, worker)
    end
end

for _, worker in ipairs(redis.call('zrangebyscore', heartbeats, '-inf', now - timeout)) do
    requeue_all(worker)
    forget_worker(heartbeats, worker)
end

-- Processes of stock Dramatiq, and workers of an older formrelay, whose queues are known.
for _, worker in ipairs(redis.call('zrangebyscore', stock_heartbeats, '-inf', now - timeout)) do
    local heard = tonumber(redis.call('zscore', stock_heartbeats, worker))
    if redis.call('exists', queues_of(worker)) == 1 or heard < now - STOCK_TIMEOUT then
        requeue_all(worker)
        requeue_delayed(worker)
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

-- Continues a purge whose caller was killed.
drop_chunk()

return {recovered, redis.call('scard', in_flight_key(ARGV[5], queue))}
