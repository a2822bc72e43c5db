-- Settles what is finished and fetches what is next, in one round trip.
--
-- KEYS: those of the queue, then: in flight, worker queues
-- ARGV: the worker's now (unix ms), worker, queue, how many to fetch, in how many bytes,
--       n replacements: 'untried' (of a suspect that was not tried, which stays one) or '',
--                       n, n ids that it replaces, n, n times: id, due ('' for the dead), priority
--                       ('' for none), body
--       n, n ids                                 done
--       n, n ids                                 to put back, unstarted
-- Returns: ms until the next scheduled message is due (-1: none),
--          ids, bodies, suspect counts ('' where none is suspected),
--          ids that are done and are not in flight for this worker, but are there

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

-- The place of the next n arguments: the first and the last, and one after another in chunks.
local function next_args()
    local n = tonumber(next_arg())
    local first = at
    at = at + n
    return first, at - 1
end

local function in_chunks(first, last, act)
    for start = first, last, CHUNK do act(start, math.min(start + CHUNK - 1, last)) end
end

-- How many of these ids are in flight for this worker.
local function count_ours(first, last)
    if first == last then return redis.call('sismember', in_flight, ARGV[first]) end
    local count = 0
    in_chunks(first, last, function(from, to)
        local flags = redis.call('smismember', in_flight, unpack(ARGV, from, to))
        for i = 1, #flags do count = count + flags[i] end
    end)
    return count
end

local function remove(first, last)
    in_chunks(first, last, function(from, to)
        redis.call('srem', in_flight, unpack(ARGV, from, to))
        forget(ARGV, from, to)
    end)
end

local awake = false

-- From the last to the first, so that they stand in the old order.
local function put_back(first, last)
    for i = last, first, -1 do
        if redis.call('srem', in_flight, ARGV[i]) == 1
            and redis.call('hexists', bodies, ARGV[i]) == 1 then
            push_front(ARGV[i])
            awake = true
        end
    end
end

local function write(id, due, level, body, keeps_id)
    if due == '' then return bury(id, body) end
    local is_first
    if keeps_id then
        id, is_first = schedule(id, due + skew, body)
    else
        id, is_first = schedule_new(id, due + skew, body)
    end
    awake = is_first or awake
    return id
end

-- Nothing is done where another worker has recovered all of these messages (we were taken for dead),
-- or where the call is repeated because its answer was lost. Written first and removed last: an error
-- in between loses nothing.
local function replace(is_untried, first, last)
    local count = last - first + 1
    local ours = count_ours(first, last)
    local is_ours = ours == count
    local deaths = is_untried and is_ours and redis.call('hget', suspects, ARGV[first])
    local written = {}
    for _ = 1, tonumber(next_arg()) do
        local id, due, level, body = next_arg(), next_arg(), next_arg(), next_arg()
        if is_ours then
            local new_id = write(id, due, level, body, count == 1 and id == ARGV[first])
            if new_id then written[#written + 1] = {new_id, level} end
        end
    end
    if not is_ours then
        if ours > 0 then put_back(first, last) end
        return
    end
    remove(first, last)
    for _, one in ipairs(written) do
        set_priority(one[1], one[2])
        if deaths then redis.call('hset', suspects, one[1], deaths) end
    end
end

local n = tonumber(next_arg())
-- A Redis without memory refuses a script only at its first write, and only if that write needs
-- memory. SREM needs none, and settling frees memory.
if n > 0 then redis.call('srem', in_flight, '') end
for _ = 1, n do
    local is_untried = next_arg() == 'untried'
    replace(is_untried, next_args())
end

-- Done is done, even if another worker has taken it over. But the same id may mean another
-- message by now: these are compared by their bodies, see done.lua.
local taken_over = {}
local first, last = next_args()
if count_ours(first, last) == last - first + 1 then
    remove(first, last)
else
    for i = first, last do
        if count_ours(i, i) == 1 then
            remove(i, i)
        elseif redis.call('hexists', bodies, ARGV[i]) == 1 then
            taken_over[#taken_over + 1] = ARGV[i]
        end
    end
end

put_back(next_args())

redis.call('zadd', heartbeats, now, worker)
redis.call('sadd', worker_queues, queue)

if redis.call('exists', stock_delayed) == 1 then adopt_delayed() end

-- What is due goes to the end of the waiting.
local due = redis.call('zrangebyscore', scheduled, '-inf', now, 'limit', 0, CHUNK)
if #due > 0 then
    local due_bodies = redis.call('hmget', scheduled_bodies, unpack(due))
    redis.call('zrem', scheduled, unpack(due))
    redis.call('hdel', scheduled_bodies, unpack(due))
    for i, id in ipairs(due) do
        if due_bodies[i] then push_back(wait_under(id, due_bodies[i])) end
    end
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
            -- Without a body it is gone: done by a worker from which it had been taken over.
            if body then
                bytes = bytes + #body
                if bytes > most_bytes and #ids > 0 then
                    -- The messages that do not fit into one answer go back, from the last to the first.
                    for rest = #some, i, -1 do push_front(some[rest]) end
                    return
                end
                ids[#ids + 1], fetched[#fetched + 1] = id, body
            end
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

return {wait, ids, fetched, counts, taken_over}
