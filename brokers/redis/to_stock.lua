-- Converts messages of one queue to the format and keys of stock Dramatiq.
--
-- ARGV: source ('waiting', 'scheduled', 'dead', or a priority), then for each message: its id,
--       whether it becomes a dead letter (1 or 0), n, n times: new id, new body
-- Returns: number of converted messages; the others no longer exist

local source = ARGV[1]
local stock_delayed, stock_dead = scheduled_bodies:sub(1, -6), dead_bodies:sub(1, -6) -- '.msgs'
local index = {scheduled = scheduled, dead = dead}
local hash = {scheduled = scheduled_bodies, dead = dead_bodies}

-- The list without a priority is rotated once. Lists with a priority are moved to its front, from
-- their end to their front.
local function remove(id)
    if index[source] then return redis.call('zrem', index[source], id) == 1 end
    local list, pop, push = waiting, 'lpop', 'lpush'
    if source ~= 'waiting' then list, pop, push = waiting .. '.p' .. source, 'rpop', 'rpush' end
    local found = redis.call(pop, list)
    if found == id then return true end
    if found then redis.call(push, list, found) end
    return false
end

local function add_to_stock(id, body, is_dead)
    if is_dead or source == 'dead' then
        redis.call('hset', dead_bodies, id, body)
        -- Stock deletes dead letters a week after this time.
        redis.call('zadd', stock_dead, now, id)
    elseif source == 'scheduled' then
        redis.call('hset', scheduled_bodies, id, body)
        redis.call('rpush', stock_delayed, id)
    else
        redis.call('hset', bodies, id, body)
        redis.call(source == 'waiting' and 'rpush' or 'lpush', waiting, id)
    end
end

local count, first = 0, 2
while first <= #ARGV do
    local id, is_dead, n = ARGV[first], ARGV[first + 1] == '1', tonumber(ARGV[first + 2])
    if remove(id) then
        count = count + 1
        redis.call('hdel', hash[source] or bodies, id)
        redis.call('hdel', suspects, id)
        redis.call('hdel', priorities, id)
        for i = first + 3, first + 2 + 2 * n, 2 do add_to_stock(ARGV[i], ARGV[i + 1], is_dead) end
    elseif not index[source] then
        break -- the list has changed; the caller reads it again
    end
    first = first + 3 + 2 * n
end
return count
