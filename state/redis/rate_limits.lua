-- Rate limits (GCRA). A key holds three numbers: the unix time in microseconds at which its bucket
-- is full again, the microseconds in which it gets one back, and the time until which it is closed.
-- KEYS: the keys, and to take once, the key that says who took. ARGV: 'take', 'close' or 'reopen';
--       to take, the milliseconds for which the last key is kept ('' without it), and for each key
--       the microseconds for one (0 for no limit), the capacity and the cost; to close, the
--       microseconds.
-- Returns: for 'take', the microseconds to wait, 0 if it was taken.
local DAY = 86400000000
local time = redis.call('time')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

-- The time of closure is clamped: after the clock was set back, it may lie too far ahead.
local function read(key)
    local full_at, interval, closed =
        string.match(redis.call('get', key) or '', '^(%d+) (%d+) (%d+)$')
    full_at, interval, closed = tonumber(full_at or 0), tonumber(interval or 0), tonumber(closed or 0)
    return full_at, interval, math.min(closed, now + DAY), closed > now + DAY
end

local function write(key, full_at, interval, closed)
    local lasts = math.max(full_at, closed) - now
    if lasts <= 0 then return redis.call('del', key) end
    local value = string.format('%.0f %.0f %.0f', full_at, interval, closed)
    redis.call('set', key, value, 'px', string.format('%.0f', math.ceil(lasts / 1000)))
end

if ARGV[1] ~= 'take' then
    local full_at, interval, closed = read(KEYS[1])
    if ARGV[1] == 'close' then
        closed = math.max(closed, now + tonumber(ARGV[2]))
    else
        closed = 0
    end
    write(KEYS[1], full_at, interval, closed)
    return 0
end

-- What the clock or a new limit clamped is stored even if nothing is taken: otherwise the time that
-- passes would not shorten the wait.
local wait, taken, clamped = 0, {}, {}
local keep, count, once = ARGV[2], (#ARGV - 2) / 3, nil
if keep ~= '' then once = KEYS[count + 1] end
local has_taken = once and redis.call('exists', once) == 1
for index = 1, count do
    local key, at = KEYS[index], 3 * index
    local interval, capacity = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
    local cost = tonumber(ARGV[at + 2])
    if has_taken then interval = 0 end
    local full_at, old_interval, closed, is_clamped = read(key)
    wait = math.max(wait, closed - now)
    if interval == 0 then
        if is_clamped then clamped[#clamped + 1] = {key, full_at, old_interval, closed} end
    else
        local used = math.max(0, full_at - now)
        if old_interval > 0 and old_interval ~= interval then
            used, is_clamped = math.ceil(used / old_interval * interval), true
        end
        if used > capacity * interval then
            used, is_clamped = capacity * interval, true
        end
        if is_clamped then clamped[#clamped + 1] = {key, now + used, interval, closed} end
        used = used + cost * interval
        wait = math.max(wait, used - capacity * interval)
        taken[#taken + 1] = {key, now + used, interval, closed}
    end
end
for _, one in ipairs(wait > 0 and clamped or taken) do write(unpack(one)) end
if once and wait <= 0 and #taken > 0 then redis.call('set', once, '1', 'px', keep) end
return string.format('%.0f', wait)
