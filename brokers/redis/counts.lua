-- Counts the messages of a queue in each state.
--
-- Returns: waiting, scheduled, in flight, dead, paused (1 or 0)

local waits = redis.call('llen', waiting)
for _, priority in ipairs(redis.call('zrevrange', used_priorities, 0, -1)) do
    waits = waits + redis.call('llen', waiting .. '.p' .. priority)
end
-- Messages that a purge has not dropped yet have bodies, but are neither waiting nor in flight.
local purging = 0
for _, list in ipairs(waiting_lists) do purging = purging + redis.call('llen', purged(list)) end
local body_count = redis.call('hlen', bodies) -- of waiting and in-flight messages

-- Ids without a body (a dashboard deleted it) and bodies without an id (a stock producer failed
-- between two writes) are not counted. Counting adopts nothing, since stock workers may be running.
local function count_messages(hash, index, stock_index)
    local kind = redis.call('type', stock_index).ok
    local ids = redis.call('zcard', index)
        + (kind == 'list' and redis.call('llen', stock_index) or 0)
        + (kind == 'zset' and redis.call('zcard', stock_index) or 0)
    return math.min(ids, redis.call('hlen', hash))
end

return {
    waits + redis.call('llen', inbox) + (on_old_inbox('llen') or 0),
    count_messages(scheduled_bodies, scheduled, stock_delayed),
    math.max(0, body_count - waits - purging),
    count_messages(dead_bodies, dead, stock_dead),
    redis.call('exists', paused),
}
