-- Deletes a waiting or scheduled message.
--
-- ARGV: id
-- Returns: 1 if the message was deleted; 0 if there is none, or if it is in flight

local id = ARGV[1]

if redis.call('hdel', scheduled_bodies, id) == 1 then
    redis.call('zrem', scheduled, id)
    -- Another program may have stored a waiting message under the same id.
    if redis.call('hexists', bodies, id) == 0 then forget({id}, 1, 1) end
    return 1
end

if redis.call('lrem', list_of(id), 1, id) == 0 then return 0 end
forget({id}, 1, 1)
return 1
