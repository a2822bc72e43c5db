-- Settles what is finished and fetches what is next, in one round trip.
--
-- KEYS: waiting, bodies, scheduled, scheduled bodies, dead, dead bodies,
--       in flight, heartbeats, wake, suspects, worker queues
-- ARGV: now (unix ms), worker, queue, how many to fetch,
--       n, n times: owned ('1' or '0'), id, due, body     to schedule
--       n, n times: owned, id, body                       to bury
--       n, n ids                                          to remove
--       n, n ids                                          to put back, unstarted
-- Returns: ms until the next scheduled message is due (-1: none),
--          ids, bodies, suspect counts ('' where none is suspected)

local waiting, bodies, scheduled, scheduled_bodies, dead, dead_bodies,
      in_flight, heartbeats, wake, suspects, worker_queues = unpack(KEYS)
local now, worker, queue, room = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local at = 5
local CHUNK = 1000 -- unpack() fails with a few thousand values

local any_suspects = redis.call('exists', suspects) == 1

local function next_arg()
    local value = ARGV[at]
    at = at + 1
    return value
end

-- A message that was taken from us (we were thought dead) is another worker's
-- to decide about, so only its owner may replace it.
local function take(owned, id)
    if owned == '1' then
        if redis.call('srem', in_flight, id) == 0 then return false end
        redis.call('hdel', bodies, id)
        if any_suspects then redis.call('hdel', suspects, id) end
    end
    return true
end

local awake = false
for _ = 1, tonumber(next_arg()) do
    local owned, id, due, body = next_arg(), next_arg(), next_arg(), next_arg()
    if take(owned, id) then
        redis.call('hset', scheduled_bodies, id, body)
        redis.call('zadd', scheduled, due, id)
        awake = awake or redis.call('zrange', scheduled, 0, 0)[1] == id
    end
end

for _ = 1, tonumber(next_arg()) do
    local owned, id, body = next_arg(), next_arg(), next_arg()
    if take(owned, id) then
        redis.call('hset', dead_bodies, id, body)
        redis.call('zadd', dead, now, id)
    end
end

-- Done is done: the body goes even if the message was taken from us, so that
-- it is not run again.
local n = tonumber(next_arg())
for first = at, at + n - 1, CHUNK do
    local last = math.min(first + CHUNK - 1, at + n - 1)
    redis.call('srem', in_flight, unpack(ARGV, first, last))
    redis.call('hdel', bodies, unpack(ARGV, first, last))
    if any_suspects then redis.call('hdel', suspects, unpack(ARGV, first, last)) end
end
at = at + n

-- Put back from the last to the first, so that they stand in the old order.
n = tonumber(next_arg())
for i = at + n - 1, at, -1 do
    if redis.call('srem', in_flight, ARGV[i]) == 1 then
        redis.call('lpush', waiting, ARGV[i])
        awake = true
    end
end

redis.call('zadd', heartbeats, now, worker)
redis.call('sadd', worker_queues, queue)

-- What is due goes to the end of the waiting.
local due = redis.call('zrangebyscore', scheduled, '-inf', now, 'limit', 0, CHUNK)
if #due > 0 then
    local due_bodies = redis.call('hmget', scheduled_bodies, unpack(due))
    for i, id in ipairs(due) do
        if due_bodies[i] then
            -- An id that is in use on the waiting side belongs to another message.
            if redis.call('hsetnx', bodies, id, due_bodies[i]) == 0 then
                id = id .. '~due' .. ARGV[1]
                redis.call('hset', bodies, id, due_bodies[i])
            end
            redis.call('rpush', waiting, id)
        end
    end
    redis.call('zrem', scheduled, unpack(due))
    redis.call('hdel', scheduled_bodies, unpack(due))
end

local ids, fetched, counts = {}, {}, {}
if room > 0 then
    ids = redis.call('lpop', waiting, room) or {}
    for first = 1, #ids, CHUNK do
        local last = math.min(first + CHUNK - 1, #ids)
        redis.call('sadd', in_flight, unpack(ids, first, last))
        local some = redis.call('hmget', bodies, unpack(ids, first, last))
        for i = 1, last - first + 1 do fetched[first + i - 1] = some[i] end
        if any_suspects then
            some = redis.call('hmget', suspects, unpack(ids, first, last))
            for i = 1, last - first + 1 do counts[first + i - 1] = some[i] or '' end
        end
    end
end

-- One waker for each fetch: whoever got the last one wakes nobody.
if awake or redis.call('exists', waiting) == 1 then redis.call('zadd', wake, 0, 'w') end

local wait = -1
local first = redis.call('zrange', scheduled, 0, 0, 'withscores')
if #first > 0 then wait = math.max(0, math.ceil(tonumber(first[2]) - now)) end

return {wait, ids, fetched, counts}
