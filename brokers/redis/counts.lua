-- How many messages a queue holds in each state.
--
-- Returns: waiting, scheduled, in flight, dead, paused (1 or 0), id that waits longest ('' for none)

local waits = redis.call('llen', waiting)
local oldest = redis.call('lindex', waiting, 0)
for _, level in ipairs(redis.call('zrevrange', levels, 0, -1)) do
    waits = waits + redis.call('llen', waiting .. '.p' .. level)
end
-- A body is there for what waits and for what is in flight.
local held = redis.call('hlen', bodies)
return {
    waits + redis.call('llen', inbox),
    redis.call('zcard', scheduled),
    math.max(0, held - waits),
    redis.call('zcard', dead),
    redis.call('exists', paused),
    oldest or '',
}
