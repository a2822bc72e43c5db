-- Adds dead letters whose ids no message of the queue has.
--
-- ARGV: how long dead letters are kept (ms),
--       then three for each dead letter: id, time of death (unix ms, '' if unknown), body
-- Returns: number of added dead letters

local retention, added = tonumber(ARGV[1]), 0
for i = 2, #ARGV, 3 do
    local id, died, body = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
    local is_known = redis.call('hexists', bodies, id) == 1
        or redis.call('hexists', scheduled_bodies, id) == 1
        or redis.call('hexists', dead_bodies, id) == 1
    if not is_known then
        -- A dead letter whose time is over would be deleted at once.
        if not died or died > now or died < now - retention then died = now end
        redis.call('zadd', dead, string.format('%.17g', died), id)
        redis.call('hset', dead_bodies, id, body)
        added = added + 1
    end
end
return added
