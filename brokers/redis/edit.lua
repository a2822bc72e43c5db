-- Deletes or replaces messages that are not in flight.
--
-- ARGV: n times: 'scheduled', 'waiting', 'dead' or 'inbox'; id (of an inbox the whole job);
--       SHA-1 of the body ('' for any body); new body ('' to delete)
-- Returns: for each, 1 if it was changed, 0 if there is no such message or it has changed

local function is_same(hash, id, digest)
    if digest == '' then return redis.call('hexists', hash, id) == 1 end
    local body = redis.call('hget', hash, id)
    return body and redis.sha1hex(body) == digest
end

local function edit_inbox(job, body)
    local list = inbox
    if redis.call('lrem', list, 1, job) == 0 and (on_old_inbox('lrem', 1, job) or 0) == 0 then
        return 0
    end
    if body ~= '' then redis.call('rpush', inbox, body) end
    return 1
end

local function edit_waiting(id, body)
    if body == '' then
        if redis.call('lrem', list_of(id), 1, id) == 0 then return 0 end
        forget({id}, 1, 1)
    else
        if not redis.call('lpos', list_of(id), id) then return 0 end
        redis.call('hset', bodies, id, body)
    end
    return 1
end

local function edit_scheduled(id, body)
    if body ~= '' then
        redis.call('hset', scheduled_bodies, id, body)
        return 1
    end
    redis.call('hdel', scheduled_bodies, id)
    redis.call('zrem', scheduled, id)
    -- Another program may have stored a waiting message under the same id.
    if redis.call('hexists', bodies, id) == 0 then forget({id}, 1, 1) end
    return 1
end

local function edit_dead(id, body)
    if body ~= '' then
        redis.call('hset', dead_bodies, id, body)
    else
        redis.call('zrem', dead, id)
        redis.call('hdel', dead_bodies, id)
    end
    return 1
end

local hashes = {waiting = bodies, scheduled = scheduled_bodies, dead = dead_bodies}
local edits = {waiting = edit_waiting, scheduled = edit_scheduled, dead = edit_dead}
local changed = {}
for i = 1, #ARGV, 4 do
    local state, id, digest, body = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
    local was_changed = 0
    if state == 'inbox' then
        was_changed = edit_inbox(id, body)
    elseif is_same(hashes[state], id, digest) then
        was_changed = edits[state](id, body)
    end
    changed[#changed + 1] = was_changed
end
return changed
