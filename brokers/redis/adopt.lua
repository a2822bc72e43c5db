-- Moves the ids that stock Dramatiq or an older formrelay left under stock's keys to our keys. The
-- bodies stay in their hashes.

local stock_delayed, stock_dead = scheduled_bodies:sub(1, -6), dead_bodies:sub(1, -6) -- '.msgs'
local ADOPTED_BYTES = 1024 * 1024 -- limits the time of one call, which decodes each body

-- A body that cannot be decoded is due now, so that a worker dead-letters it.
local function due_of(body)
    local known, message = pcall(cjson.decode, body)
    if not known or type(message) ~= 'table' or type(message.options) ~= 'table' then return 0 end
    return tonumber(message.options.eta) or 0
end

-- Returns the number of bytes decoded.
local function schedule_delayed(ids)
    local bytes = 0
    for i, body in ipairs(redis.call('hmget', scheduled_bodies, unpack(ids))) do
        if body then
            bytes = bytes + #body
            redis.call('zadd', scheduled, due_of(body), ids[i])
        end
    end
    return bytes
end

-- Adopts a chunk of the delayed ids; there are more if the key still exists afterwards.
local function adopt_delayed()
    local kind = redis.call('type', stock_delayed).ok
    if kind == 'list' then
        local bytes = 0
        for _ = 1, CHUNK / 50 do
            local ids = redis.call('lpop', stock_delayed, 50)
            if not ids then return end
            bytes = bytes + schedule_delayed(ids)
            if bytes > ADOPTED_BYTES then return end
        end
    elseif kind == 'zset' then
        -- From an older formrelay, by due time.
        local pairs_ = redis.call('zpopmin', stock_delayed, CHUNK)
        for i = 1, #pairs_, 2 do redis.call('zadd', scheduled, pairs_[i + 1], pairs_[i]) end
    end
end

local function adopt_dead()
    local pairs_ = redis.call('zpopmin', stock_dead, CHUNK)
    for i = 1, #pairs_, 2 do redis.call('zadd', dead, pairs_[i + 1], pairs_[i]) end
end
