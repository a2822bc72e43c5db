-- Unregisters a worker from one queue.
--
-- KEYS: keys of the queue, then: in flight, worker queues
-- ARGV: worker, queue

local in_flight, worker_queues = KEYS[15], KEYS[16]
-- A worker with messages in flight stays registered, so that recovery finds them.
if redis.call('exists', in_flight) == 0 then
    redis.call('srem', worker_queues, ARGV[2])
    if redis.call('exists', worker_queues) == 0 then redis.call('zrem', heartbeats, ARGV[1]) end
end
