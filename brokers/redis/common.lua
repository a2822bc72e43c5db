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

-- An id under which the hash holds nothing: overwriting would lose a message.
local function free_id(hash, id)
    if redis.call('hexists', hash, id) == 0 then return id end
    return id .. '~' .. next_number()
end

-- Returns whether it is due first: an idle worker sleeps until the first due time that it
-- knew of, and an earlier one wakes it.
local function schedule(id, due, body)
    id = free_id(scheduled_bodies, id)
    redis.call('hset', scheduled_bodies, id, body)
    redis.call('zadd', scheduled, due, id)
    return redis.call('zrange', scheduled, 0, 0)[1] == id
end

local function bury(id, body)
    id = free_id(dead_bodies, id)
    redis.call('hset', dead_bodies, id, body)
    redis.call('zadd', dead, now, id)
end

local function wait_under(id, body)
    id = free_id(bodies, id)
    redis.call('hset', bodies, id, body)
    return id
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
