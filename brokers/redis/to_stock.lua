-- Gives some messages of one queue back to stock Dramatiq, as it expects them.
--
-- ARGV: where they are ('waiting', 'scheduled', 'dead', or the level of a priority), then for
--       each message: its id, whether it is to be dead (1 or 0), n, n times: new id, new body
-- Returns: how many messages were there still

local where = ARGV[1]
local stock_delayed, stock_dead = scheduled_bodies:sub(1, -6), dead_bodies:sub(1, -6) -- '.msgs'
local index = {scheduled = scheduled, dead = dead}
local hash = {scheduled = scheduled_bodies, dead = dead_bodies}

-- The plain list goes round once. Of the lists of priorities the last goes to the front first.
local function take(id)
    if index[where] then return redis.call('zrem', index[where], id) == 1 end
    local list, pop, push = waiting, 'lpop', 'lpush'
    if where ~= 'waiting' then list, pop, push = waiting .. '.p' .. where, 'rpop', 'rpush' end
    local found = redis.call(pop, list)
    if found == id then return true end
    if found then redis.call(push, list, found) end
    return false
end

local function put(id, body, is_dead)
    if is_dead or where == 'dead' then
        redis.call('hset', dead_bodies, id, body)
        -- Stock deletes it a week after this time.
        redis.call('zadd', stock_dead, now, id)
    elseif where == 'scheduled' then
        redis.call('hset', scheduled_bodies, id, body)
        redis.call('rpush', stock_delayed, id)
    else
        redis.call('hset', bodies, id, body)
        redis.call(where == 'waiting' and 'rpush' or 'lpush', waiting, id)
    end
end

local count, at = 0, 2
while at <= #ARGV do
    local id, is_dead, n = ARGV[at], ARGV[at + 1] == '1', tonumber(ARGV[at + 2])
    if take(id) then
        count = count + 1
        redis.call('hdel', hash[where] or bodies, id)
        redis.call('hdel', suspects, id)
        redis.call('hdel', priorities, id)
        for i = at + 3, at + 2 + 2 * n, 2 do put(ARGV[i], ARGV[i + 1], is_dead) end
    elseif not index[where] then
        break -- the list has changed; it is read again
    end
    at = at + 3 + 2 * n
end
return count
