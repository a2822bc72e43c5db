-- Drops what waits and what is scheduled on one queue; never the dead.

for _, level in ipairs(redis.call('zrange', levels, 0, -1)) do
    redis.call('del', waiting .. '.p' .. level)
end
redis.call('del', waiting, bodies, scheduled, scheduled_bodies, suspects, priorities, levels, inbox)
