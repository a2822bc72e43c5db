-- How many messages a queue holds in each state.
--
-- Returns: waiting, scheduled, in flight, dead, paused (1 or 0), id that waits longest ('' for none)

local waits = redis.call('llen', waiting)
local oldest = redis.call('lindex', waiting, 0)
for _, level in ipairs(redis.call('zrevrange', levels, 0, -1)) do
    waits = waits + redis.call('llen', waiting .. '.p' .. level)
end
-- Messages that a purge has still to drop are neither waiting nor in flight.
local purging = 0
for _, list in ipairs(waiting_lists) do purging = purging + redis.call('llen', purged(list)) end
-- A body is there for what waits and for what is in flight.
local held = redis.call('hlen', bodies)

-- Ids without a body (a dashboard deletes bodies alone) and bodies without an id (a stock producer
-- failed half-way) are no messages. Looking adopts nothing: stock workers may be at work.
local function pairs_in(hash, index, stock_index)
    local kind = redis.call('type', stock_index).ok
    local ids = redis.call('zcard', index)
        + (kind == 'list' and redis.call('llen', stock_index) or 0)
        + (kind == 'zset' and redis.call('zcard', stock_index) or 0)
    return math.min(ids, redis.call('hlen', hash))
end

return {
    waits + redis.call('llen', inbox) + (on_old_inbox('llen') or 0),
    pairs_in(scheduled_bodies, scheduled, stock_delayed),
    math.max(0, held - waits - purging),
    pairs_in(dead_bodies, dead, stock_dead),
    redis.call('exists', paused),
    oldest or '',
}
