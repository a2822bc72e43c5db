-- Settles what is finished and fetches what is next, in one round trip.
--
-- KEYS: those of the queue, then: in flight, worker queues
-- ARGV: the worker's now (unix ms), worker, queue, how many to fetch, in how many bytes,
--       n, n times: kind, guard, id, due, body   to schedule
--       n, n times: kind, guard, id, body        to bury
--       n, n ids                                 to remove
--       n, n ids                                 to put back, unstarted
-- A write is of the kind 'replace' (guard is the id in flight that it replaces), 'untried' (the
-- same of a suspect that was not tried, which stays one), 'beside' (there only while guard is in
-- flight), or 'new'.
-- Returns: ms until the next scheduled message is due (-1: none),
--          ids, bodies, suspect counts ('' where none is suspected)

local in_flight, worker_queues = KEYS[15], KEYS[16]
local skew, worker, queue = now - tonumber(ARGV[1]), ARGV[2], ARGV[3]
local room, most_bytes = math.min(tonumber(ARGV[4]), CHUNK), tonumber(ARGV[5])
local at = 6
local SLICE = 100

local function next_arg()
    local value = ARGV[at]
    at = at + 1
    return value
end

-- A message that was taken from us (we were thought dead) is another worker's to decide
-- about, so nothing is written on its behalf. The same holds for a call whose answer was
-- lost and that comes again.
local function may_write(kind, guard)
    if kind == 'new' then return true end
    if kind == 'beside' then return redis.call('sismember', in_flight, guard) == 1 end
    if redis.call('srem', in_flight, guard) == 0 then return false end
    redis.call('hdel', bodies, guard)
    if any_suspects and kind ~= 'untried' then redis.call('hdel', suspects, guard) end
    return true
end

local awake = false
for _ = 1, tonumber(next_arg()) do
    local kind, guard, id, due, body = next_arg(), next_arg(), next_arg(), next_arg(), next_arg()
    if may_write(kind, guard) then awake = schedule(id, due + skew, body) or awake end
end

for _ = 1, tonumber(next_arg()) do
    local kind, guard, id, body = next_arg(), next_arg(), next_arg(), next_arg()
    if may_write(kind, guard) then
        bury(id, body)
        if any_priorities then redis.call('hdel', priorities, guard) end
    end
end

-- Done is done: the body goes even if the message was taken from us, so that
-- it is not run again.
local n = tonumber(next_arg())
for first = at, at + n - 1, CHUNK do
    local last = math.min(first + CHUNK - 1, at + n - 1)
    redis.call('srem', in_flight, unpack(ARGV, first, last))
    forget(ARGV, first, last)
end
at = at + n

-- Put back from the last to the first, so that they stand in the old order.
n = tonumber(next_arg())
for i = at + n - 1, at, -1 do
    if redis.call('srem', in_flight, ARGV[i]) == 1 then
        push_front(ARGV[i])
        awake = true
    end
end

redis.call('zadd', heartbeats, now, worker)
redis.call('sadd', worker_queues, queue)

if redis.call('exists', stock_delayed) == 1 then adopt_delayed() end

-- What is due goes to the end of the waiting.
local due = redis.call('zrangebyscore', scheduled, '-inf', now, 'limit', 0, CHUNK)
if #due > 0 then
    local due_bodies = redis.call('hmget', scheduled_bodies, unpack(due))
    for i, id in ipairs(due) do
        if due_bodies[i] then push_back(wait_under(id, due_bodies[i])) end
    end
    redis.call('zrem', scheduled, unpack(due))
    redis.call('hdel', scheduled_bodies, unpack(due))
end

local is_paused = redis.call('exists', paused) == 1
local ids, fetched, counts = {}, {}, {}
local bytes = 0

-- By the slice: of large messages a few are one answer, and to look at a thousand of them for it
-- takes longer than all else.
local function take(list)
    while #ids < room and bytes < most_bytes do
        local some = redis.call('lpop', list, math.min(room - #ids, SLICE)) or {}
        if #some == 0 then return end
        local their_bodies = redis.call('hmget', bodies, unpack(some))
        for i, id in ipairs(some) do
            local body = their_bodies[i]
            bytes = bytes + (body and #body or 0)
            if bytes > most_bytes and #ids > 0 then
                -- What is too much for one answer goes back, from the last to the first.
                for rest = #some, i, -1 do push_front(some[rest]) end
                return
            end
            ids[#ids + 1], fetched[#fetched + 1] = id, body
        end
    end
end

if room > 0 and not is_paused then
    -- Jobs of other publishers begin to wait here, each under an id that stays the same.
    for _, job in ipairs(take_plain_jobs(math.min(room, CHUNK))) do
        push_back(wait_under('inbox-' .. next_number(), job))
    end

    -- The highest priority first; those without one stand in the plain list.
    for _, level in ipairs(redis.call('zrevrange', levels, 0, -1)) do
        local list = waiting .. '.p' .. level
        take(list)
        if redis.call('exists', list) == 0 then redis.call('zrem', levels, level) end
    end
    take(waiting)

    if #ids > 0 then
        redis.call('sadd', in_flight, unpack(ids))
        if any_suspects then
            counts = redis.call('hmget', suspects, unpack(ids))
            for i = 1, #ids do counts[i] = counts[i] or '' end
        end
    end
end

if awake or anything_waits() then wake_up() end

local wait = -1
local first = redis.call('zrange', scheduled, 0, 0, 'withscores')
if #first > 0 then wait = math.max(0, math.ceil(tonumber(first[2]) - now)) end
if redis.call('exists', stock_delayed) == 1 then wait = 0 end -- there are more to adopt

return {wait, ids, fetched, counts}
