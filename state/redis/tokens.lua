-- Connections. A hash for each: 'id', 'sealed', 'facts', 'generation', 'refreshing' if a refresh has
-- begun and its result was not stored, and 'pause' if it is paused, which begins with 'o' if an
-- operator paused it.
-- KEYS: the hash, the set of the digests of all connections. ARGV: the call, the digest, its
--       arguments.
-- Returns: 1 if it was done, otherwise 0.
local key, all = KEYS[1], KEYS[2]
local what, name = ARGV[1], ARGV[2]
local generation = redis.call('hget', key, 'generation')

if what == 'create' or what == 'put' or what == 'replace' then
    local id, sealed, facts, lasts, old = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
    if what == 'create' and generation then
        -- A call whose answer was lost is repeated.
        return redis.call('hget', key, 'sealed') == sealed and 1 or 0
    end
    if what ~= 'create' and redis.call('hget', key, 'sealed') == sealed then return 1 end
    if what == 'replace' then
        if generation ~= old then return 0 end
        local pause = redis.call('hget', key, 'pause')
        if pause and string.sub(pause, 1, 1) ~= 'o' then redis.call('hdel', key, 'pause') end
    elseif what == 'put' then
        redis.call('hdel', key, 'pause')
    end
    redis.call('hset', key, 'id', id, 'sealed', sealed, 'facts', facts)
    redis.call('hdel', key, 'refreshing')
    if generation then
        redis.call('hincrby', key, 'generation', 1)
    else
        -- By the time: a connection that is removed and stored again gets another one.
        local time = redis.call('time')
        local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
        redis.call('hset', key, 'generation', string.format('%.0f', now))
    end
    redis.call('sadd', all, name)
    if lasts == '0' then redis.call('persist', key) else redis.call('pexpire', key, lasts) end
    return 1
end

if not generation then
    redis.call('srem', all, name)
    return 0
end
if what == 'pause' then
    if ARGV[4] ~= '' and ARGV[4] ~= generation then return 0 end
    local pause = redis.call('hget', key, 'pause')
    if pause then return pause == ARGV[3] and 1 or 0 end
    redis.call('hset', key, 'pause', ARGV[3])
    return 1
elseif what == 'begin' then
    if ARGV[3] ~= generation then return 0 end
    redis.call('hset', key, 'refreshing', ARGV[4])
    return 1
elseif what == 'resume' then
    return redis.call('hdel', key, 'pause')
elseif what == 'reseal' then
    local sealed = redis.call('hget', key, 'sealed')
    if sealed == ARGV[3] then redis.call('hset', key, 'sealed', ARGV[4])
    elseif sealed ~= ARGV[4] then return 0 end
    return 1
elseif what == 'remove' then
    redis.call('del', key)
    redis.call('srem', all, name)
    return 1
end
return 0  -- 'forget': it exists
