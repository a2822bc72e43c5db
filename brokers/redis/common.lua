-- Stands before every script: the keys of one queue by name, and how messages move.
-- The order of KEYS is that of Keys.of() in keys.py.

local waiting, bodies, scheduled, scheduled_bodies, dead, dead_bodies, wake, suspects,
      priorities, levels, paused, inbox, heartbeats, sequence = unpack(KEYS)

local CHUNK = 1000 -- unpack() fails with a few thousand values

-- One clock for all: workers whose clocks differ would take each other for dead.
local time = redis.call('time')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local any_suspects = redis.call('exists', suspects) == 1
local any_priorities = redis.call('exists', priorities) == 1
local any_scheduled = redis.call('exists', scheduled_bodies) == 1

-- Stock Dramatiq's delayed messages stand in a list under this key; we need them by due time.
if redis.call('type', scheduled).ok == 'list' then
    local ids = redis.call('lrange', scheduled, 0, -1)
    redis.call('del', scheduled)
    for _, id in ipairs(ids) do
        local body = redis.call('hget', scheduled_bodies, id)
        local known, message = pcall(cjson.decode, body or '')
        local eta = known and type(message) == 'table' and type(message.options) == 'table'
            and tonumber(message.options.eta) or 0
        if body then redis.call('zadd', scheduled, eta, id) end
    end
end

-- The list that a message waits in: one for each priority in use.
local function list_of(id)
    local level = any_priorities and redis.call('hget', priorities, id)
    if not level then return waiting end
    redis.call('zadd', levels, level, level)
    return waiting .. '.p' .. level
end

local function push_back(id) redis.call('rpush', list_of(id), id) end
local function push_front(id) redis.call('lpush', list_of(id), id) end

local function anything_waits()
    return redis.call('exists', waiting, levels, inbox) > 0
end

-- One idle worker takes the marker; if it leaves something behind it sets it again.
-- A paused queue wakes nobody: they would go round without end.
local function wake_up()
    if redis.call('exists', paused) == 0 then redis.call('zadd', wake, 0, 'w') end
end

-- A number that no message had before, as text (Lua writes large ones with an exponent). It begins
-- with the time in microseconds, so that a server that came up empty gives no id a second time.
local function next_number()
    redis.call('set', sequence, time[1] .. string.format('%06d', time[2]), 'nx')
    return string.format('%.0f', redis.call('incr', sequence))
end

local function other_id(id) return id .. '~' .. next_number() end

-- Adds a body under an id, or under another one where that is taken: overwriting would lose a
-- message. Returns the id.
local function add(hash, id, body)
    if redis.call('hsetnx', hash, id, body) == 0 then
        id = other_id(id)
        redis.call('hset', hash, id, body)
    end
    return id
end

-- What is kept of a message beside its body (priority, suspicion) is kept by its id, wherever it
-- is. So an id is given once among the messages that wait, are in flight or are scheduled.
local function wait_under(id, body)
    if any_scheduled and redis.call('hexists', scheduled_bodies, id) == 1 then id = other_id(id) end
    return add(bodies, id, body)
end

-- Returns the id, and whether it is due first: an idle worker sleeps until the first due time
-- that it knew of, and an earlier one wakes it.
local function schedule(id, due, body)
    id = add(scheduled_bodies, id, body)
    any_scheduled = true
    redis.call('zadd', scheduled, due, id)
    return id, redis.call('zrange', scheduled, 0, 0)[1] == id
end

-- Like schedule(), for a message that was not there before.
local function schedule_new(id, due, body)
    if redis.call('hexists', bodies, id) == 1 then id = other_id(id) end
    return schedule(id, due, body)
end

local function bury(id, body)
    redis.call('zadd', dead, now, add(dead_bodies, id, body))
end

local function set_priority(id, level)
    if level ~= '' then
        redis.call('hset', priorities, id, level)
        any_priorities = true
    end
end

local function forget(ids, first, last)
    redis.call('hdel', bodies, unpack(ids, first, last))
    if any_suspects then redis.call('hdel', suspects, unpack(ids, first, last)) end
    if any_priorities then redis.call('hdel', priorities, unpack(ids, first, last)) end
end
