-- Settles, requeues and fetches messages in one round trip.
--
-- KEYS: keys of the queue, then: in flight, worker queues
-- ARGV: the worker's now (unix ms), worker, queue, maximum messages to fetch, maximum bytes,
--       n replacements: 'suspect' (its quarantine run is not counted; it stays a suspect) or '',
--                       n, n ids to replace, n, n times: id, due ('' for a dead letter), priority
--                       ('' for none), body
--       n, n ids that are done
--       n, n ids to requeue
-- Returns: ms until the next scheduled message is due (-1 without any),
--          fetched ids, their bodies, their suspect counts ('' for no suspect),
--          ids that are done, exist, and are not in flight for this worker

local in_flight, worker_queues = KEYS[15], KEYS[16]
local skew, worker, queue = now - tonumber(ARGV[1]), ARGV[2], ARGV[3]
local limit, max_bytes = math.min(tonumber(ARGV[4]), CHUNK), tonumber(ARGV[5])
local arg_index = 6
local SLICE = 100

local function next_arg()
    local value = ARGV[arg_index]
    arg_index = arg_index + 1
    return value
end

-- Reads n, and returns the indexes of the first and the last of the next n arguments.
local function next_args()
    local n = tonumber(next_arg())
    local first = arg_index
    arg_index = arg_index + n
    return first, arg_index - 1
end

local function in_chunks(first, last, act)
    for start = first, last, CHUNK do act(start, math.min(start + CHUNK - 1, last)) end
end

-- Returns how many of these ids are in flight for this worker.
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

local must_wake = false

-- From the last id to the first, so that they keep their order at the front of the list.
local function requeue(first, last)
    for i = last, first, -1 do
        if redis.call('srem', in_flight, ARGV[i]) == 1
            and redis.call('hexists', bodies, ARGV[i]) == 1 then
            push_front(ARGV[i])
            must_wake = true
        end
    end
end

local function write(id, due, priority, body, keeps_id)
    if due == '' then return dead_letter(id, body) end
    local is_first
    if keeps_id then
        id, is_first = schedule(id, due + skew, body)
    else
        id, is_first = schedule_new(id, due + skew, body)
    end
    must_wake = is_first or must_wake
    return id
end

-- Does nothing if another worker has recovered all of these messages, or if the call is repeated
-- because its answer was lost. Writes first and removes last, so that an error loses no message.
local function replace(stays_suspect, first, last)
    local count = last - first + 1
    local ours = count_ours(first, last)
    local is_ours = ours == count
    local deaths = stays_suspect and is_ours and redis.call('hget', suspects, ARGV[first])
    local written = {}
    for _ = 1, tonumber(next_arg()) do
        local id, due, priority, body = next_arg(), next_arg(), next_arg(), next_arg()
        if is_ours then
            local new_id = write(id, due, priority, body, count == 1 and id == ARGV[first])
            if new_id then written[#written + 1] = {new_id, priority} end
        end
    end
    if not is_ours then
        if ours > 0 then requeue(first, last) end
        return
    end
    remove(first, last)
    for _, message in ipairs(written) do
        set_priority(message[1], message[2])
        if deaths then redis.call('hset', suspects, message[1], deaths) end
    end
end

local n = tonumber(next_arg())
-- A Redis that is out of memory refuses a script only if its first write needs memory. SREM needs
-- no memory, and settling frees memory.
if n > 0 then redis.call('srem', in_flight, '') end
for _ = 1, n do
    local stays_suspect = next_arg() == 'suspect'
    replace(stays_suspect, next_args())
end

-- Messages that are done are removed even if another worker has taken them over. Since their ids
-- may belong to other messages by now, done.lua compares their bodies.
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

requeue(next_args())

redis.call('zadd', heartbeats, now, worker)
redis.call('sadd', worker_queues, queue)

if redis.call('exists', stock_delayed) == 1 then adopt_delayed() end

-- Moves scheduled messages that are due to the end of the waiting list.
local due = redis.call('zrangebyscore', scheduled, '-inf', now, 'limit', 0, CHUNK)
if #due > 0 then
    local due_bodies = redis.call('hmget', scheduled_bodies, unpack(due))
    redis.call('zrem', scheduled, unpack(due))
    redis.call('hdel', scheduled_bodies, unpack(due))
    for i, id in ipairs(due) do
        if due_bodies[i] then push_back(add_waiting(id, due_bodies[i])) end
    end
end

local is_paused = redis.call('exists', paused) == 1
local ids, fetched, counts = {}, {}, {}
local bytes = 0

-- In slices: a few large messages fill the answer, and reading a thousand bodies would be wasted.
local function fetch_from(list)
    while #ids < limit and bytes < max_bytes do
        local slice = redis.call('lpop', list, math.min(limit - #ids, SLICE)) or {}
        if #slice == 0 then return end
        local slice_bodies = redis.call('hmget', bodies, unpack(slice))
        for i, id in ipairs(slice) do
            local body = slice_bodies[i]
            -- An id without a body was done by the worker from which it had been taken over.
            if body then
                bytes = bytes + #body
                if bytes > max_bytes and #ids > 0 then
                    -- Requeues the messages that do not fit, from the last to the first.
                    for j = #slice, i, -1 do push_front(slice[j]) end
                    return
                end
                ids[#ids + 1], fetched[#fetched + 1] = id, body
            end
        end
    end
end

if limit > 0 and not is_paused then
    -- Gives each plain job an id, which it keeps at every delivery.
    for _, job in ipairs(take_plain_jobs(math.min(limit, CHUNK))) do
        push_back(add_waiting('inbox-' .. next_number(), job))
    end

    -- The highest priority first, then the messages without a priority.
    for _, priority in ipairs(redis.call('zrevrange', used_priorities, 0, -1)) do
        local list = waiting .. '.p' .. priority
        fetch_from(list)
        if redis.call('exists', list) == 0 then redis.call('zrem', used_priorities, priority) end
    end
    fetch_from(waiting)

    if #ids > 0 then
        redis.call('sadd', in_flight, unpack(ids))
        if any_suspects then
            counts = redis.call('hmget', suspects, unpack(ids))
            for i = 1, #ids do counts[i] = counts[i] or '' end
        end
    end
end

if must_wake or anything_waits() then wake_up() end

local wait = -1
local first = redis.call('zrange', scheduled, 0, 0, 'withscores')
if #first > 0 then wait = math.max(0, math.ceil(tonumber(first[2]) - now)) end
if redis.call('exists', stock_delayed) == 1 then wait = 0 end -- more messages to adopt

return {wait, ids, fetched, counts, taken_over}
