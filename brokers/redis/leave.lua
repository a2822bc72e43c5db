-- A worker stops consuming one queue, in order: nothing of it is in flight any more.
--
-- KEYS: those of the queue, then: in flight, worker queues
-- ARGV: worker, queue

local in_flight, worker_queues = KEYS[15], KEYS[16]
-- With messages still in flight it stays registered, for recovery to find them.
if redis.call('exists', in_flight) == 0 then
    redis.call('srem', worker_queues, ARGV[2])
    if redis.call('exists', worker_queues) == 0 then redis.call('zrem', heartbeats, ARGV[1]) end
end
