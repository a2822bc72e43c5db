-- Included in the scripts that purge. A purge first renames the keys, so that it deletes no message
-- that is enqueued later, and then deletes a chunk of messages in each call.

local waiting_lists = {waiting}
for priority = 1, 9 do waiting_lists[#waiting_lists + 1] = waiting .. '.p' .. priority end
local delayed_keys = {scheduled, scheduled_bodies:sub(1, -6)}

local function purged(key) return key .. '.purged' end

local function anything_purged()
    for _, keys in ipairs({waiting_lists, delayed_keys}) do
        for _, key in ipairs(keys) do
            if redis.call('exists', purged(key)) == 1 then return true end
        end
    end
    return false
end

local function count_of(key)
    return redis.call(redis.call('type', key).ok == 'list' and 'llen' or 'zcard', key)
end

-- Pops at most CHUNK ids from a list or a sorted set.
local function pop_ids(key)
    local kind = redis.call('type', key).ok
    if kind == 'list' then return redis.call('lpop', key, CHUNK) end
    local ids = {}
    if kind == 'zset' then
        local pairs_ = redis.call('zpopmin', key, CHUNK)
        for i = 1, #pairs_, 2 do ids[#ids + 1] = pairs_[i] end
    end
    return ids
end

local function drop_chunk()
    for _, list in ipairs(waiting_lists) do
        local ids = pop_ids(purged(list))
        if #ids > 0 then return forget(ids, 1, #ids) end
    end
    for _, key in ipairs(delayed_keys) do
        local ids = pop_ids(purged(key))
        if #ids > 0 then
            redis.call('hdel', scheduled_bodies, unpack(ids))
            if any_suspects then redis.call('hdel', suspects, unpack(ids)) end
            if any_priorities then redis.call('hdel', priorities, unpack(ids)) end
            return
        end
    end
end
