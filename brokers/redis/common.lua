-- Included in every script: names of the keys of one queue, and functions that move messages.
-- KEYS: in the order of Keys.of() in keys.py.

local waiting, bodies, scheduled, scheduled_bodies, dead, dead_bodies, wake, suspects,
      priorities, used_priorities, paused, inbox, heartbeats, sequence = unpack(KEYS)

local CHUNK = 1000 -- unpack() fails with a few thousand values

-- The server's clock: workers whose clocks differ would otherwise count each other as dead.
local time = redis.call('time')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local any_suspects = redis.call('exists', suspects) == 1
local any_priorities = redis.call('exists', priorities) == 1
local any_scheduled = redis.call('exists', scheduled_bodies) == 1

-- Publishers of older versions push plain jobs to this list, whose name has no namespace. Only the
-- default namespace consumes the list, since other namespaces may be other environments. The Redis
-- user may lack the right to this key, so that the key is not in KEYS and is accessed with pcall.
local default_queue = string.match(waiting, '^dramatiq:([^:]+)$')
local old_inbox = default_queue and 'formrelay:inbox:' .. default_queue

local function on_old_inbox(command, ...)
    local answer = old_inbox and redis.pcall(command, old_inbox, ...)
    if type(answer) == 'table' and answer.err then
        -- A user who may read but not pop would be woken for these jobs for ever.
        old_inbox = nil
        return false
    end
    return answer
end

-- Returns the list in which a message waits: each priority has its own.
local function list_of(id)
    local priority = any_priorities and redis.call('hget', priorities, id)
    if not priority then return waiting end
    redis.call('zadd', used_priorities, priority, priority)
    return waiting .. '.p' .. priority
end

local function push_back(id) redis.call('rpush', list_of(id), id) end
local function push_front(id) redis.call('lpush', list_of(id), id) end

local function anything_waits()
    return redis.call('exists', waiting, used_priorities, inbox) > 0
        or (on_old_inbox('exists') or 0) > 0
end

local function take_plain_jobs(count)
    local jobs = redis.call('lpop', inbox, count) or {}
    if #jobs < count then
        for _, job in ipairs(on_old_inbox('lpop', count - #jobs) or {}) do jobs[#jobs + 1] = job end
    end
    return jobs
end

-- One idle worker pops the marker, and sets it again if it leaves messages waiting.
-- A paused queue wakes no worker, since workers would wake each other for ever.
local function wake_up()
    if redis.call('exists', paused) == 0 then redis.call('zadd', wake, 0, 'w') end
end

-- Returns a number that no message has had, as text (Lua writes large numbers with an exponent).
-- The counter starts at the time in microseconds, so that ids stay unique after data loss.
local function next_number()
    redis.call('set', sequence, time[1] .. string.format('%06d', time[2]), 'nx')
    return string.format('%.0f', redis.call('incr', sequence))
end

local function other_id(id) return id .. '~' .. next_number() end

-- Adds a body under an id, or under a new id if that id is taken, since overwriting would lose a
-- message. Returns the id.
local function add(hash, id, body)
    if redis.call('hsetnx', hash, id, body) == 0 then
        id = other_id(id)
        redis.call('hset', hash, id, body)
    end
    return id
end

-- Adds the body of a waiting message. Returns its id, which is unique among the waiting, scheduled
-- and in-flight messages: priorities and suspect counts are stored by id in all these states.
local function add_waiting(id, body)
    if any_scheduled and redis.call('hexists', scheduled_bodies, id) == 1 then id = other_id(id) end
    return add(bodies, id, body)
end

-- Returns the id, and whether it is due first: then idle workers must be woken, since they sleep
-- until the first due time that they know.
local function schedule(id, due, body)
    redis.call('zcard', scheduled) -- fails on a key of a wrong type before anything is written
    id = add(scheduled_bodies, id, body)
    any_scheduled = true
    redis.call('zadd', scheduled, due, id)
    return id, redis.call('zrange', scheduled, 0, 0)[1] == id
end

-- Like schedule(), for a message that is not in flight.
local function schedule_new(id, due, body)
    if redis.call('hexists', bodies, id) == 1 then id = other_id(id) end
    return schedule(id, due, body)
end

local function dead_letter(id, body)
    redis.call('zcard', dead) -- as in schedule()
    redis.call('zadd', dead, now, add(dead_bodies, id, body))
end

local function set_priority(id, priority)
    if priority ~= '' then
        redis.call('hset', priorities, id, priority)
        any_priorities = true
    end
end

local function forget(ids, first, last)
    redis.call('hdel', bodies, unpack(ids, first, last))
    if any_suspects then redis.call('hdel', suspects, unpack(ids, first, last)) end
    if any_priorities then redis.call('hdel', priorities, unpack(ids, first, last)) end
end
