-- Suppressed addresses. The hash holds "REASON SINCE EXPIRES COUNT STATUS" by address: letters of
-- the reasons in the order of their weight, times in unix milliseconds, 0 for no end.
-- KEYS: the hash, the index (all addresses with the same score, so by bytes), the ends (addresses
--       with an end, by it); for 'soft' the counted bounces of an address instead, and for 'remove'
--       the two keys with those of each address behind the three.
-- ARGV: the call, its arguments.
local CLEANED = 100  -- maximum number of expired entries removed in a call
local SCANNED = 1000  -- maximum number of entries read for a page
local what = ARGV[1]
local time = redis.call('time')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local entries, index, ends = KEYS[1], KEYS[2], KEYS[3]

local function drop(address)
    redis.call('hdel', entries, address)
    redis.call('zrem', index, address)
    redis.call('zrem', ends, address)
end

-- Returns the reason, since, expires, count, status; nothing for an expired entry.
local function parse(value)
    if not value then return end
    local reason, since, expires, count, status =
        string.match(value, '^(%a) (%-?%d+) (%d+) (%d+) ?(.*)$')
    expires = tonumber(expires)
    if expires > 0 and expires <= now then return end
    return reason, since, expires, tonumber(count), status
end

if what == 'find' then
    local found = {}
    for i = 2, #ARGV do
        local value = redis.call('hget', entries, ARGV[i])
        if value and not parse(value) then
            drop(ARGV[i])
            value = false
        end
        found[i - 1] = value
    end
    return found
end

if what == 'add' then
    local over = redis.call('zrangebyscore', ends, '-inf', now, 'limit', 0, CLEANED)
    for _, address in ipairs(over) do drop(address) end
    local new = 0
    for i = 2, #ARGV, 6 do
        local address, reason, since = ARGV[i], ARGV[i + 1], ARGV[i + 2]
        local expires, count, status = tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4]), ARGV[i + 5]
        if expires == 0 or expires > now then
            if since == '' then since = string.format('%.0f', now) end
            local old, old_since, old_expires, old_count, old_status =
                parse(redis.call('hget', entries, address))
            if old then
                if reason > old then reason, status = old, old_status end
                if expires == 0 or old_expires == 0 then expires = 0
                else expires = math.max(expires, old_expires) end
                if since == old_since then count = math.max(count, old_count)
                else count = math.min(count + old_count, 1000000) end
                since = old_since
            else
                new = new + 1
            end
            local value = string.format('%s %s %.0f %.0f %s', reason, since, expires, count, status)
            redis.call('hset', entries, address, value)
            redis.call('zadd', index, 0, address)
            if expires == 0 then redis.call('zrem', ends, address)
            else redis.call('zadd', ends, string.format('%.0f', expires), address) end
        end
    end
    return new
end

if what == 'remove' then
    local removed = 0
    for i = 2, #ARGV do
        if parse(redis.call('hget', entries, ARGV[i])) then removed = removed + 1 end
        drop(ARGV[i])
        redis.call('del', KEYS[2 * i], KEYS[2 * i + 1])
    end
    return removed
end

if what == 'page' then
    local after, limit, reason = ARGV[2], math.min(tonumber(ARGV[3]), SCANNED), ARGV[4]
    local from, found, scanned = after == '' and '-' or '(' .. after, {}, 0
    while true do
        local some = redis.call('zrangebylex', index, from, '+', 'limit', 0, math.min(limit + 1, 500))
        for _, address in ipairs(some) do
            local value = redis.call('hget', entries, address)
            local its = parse(value)
            if its and (reason == '' or its == reason) then
                if #found == 2 * limit then return {1, after, found} end
                found[#found + 1] = address
                found[#found + 1] = value
            end
            after, scanned = address, scanned + 1
        end
        if #some == 0 then return {0, '', found} end
        if scanned >= SCANNED then return {1, after, found} end
        from = '(' .. after
    end
end

if what == 'count' then
    return redis.call('hlen', entries) - redis.call('zcount', ends, '-inf', now)
end

-- 'soft': the event, the window in milliseconds
redis.call('zremrangebyscore', KEYS[1], '-inf', now - tonumber(ARGV[3]))
redis.call('zadd', KEYS[1], 'nx', now, ARGV[2])
redis.call('pexpire', KEYS[1], ARGV[3])
return redis.call('zcard', KEYS[1])
