-- Rate limits (GCRA). A key holds three numbers: the unix time in microseconds at which its bucket
-- is full again, the microseconds in which it gets one back, and the time until which it is closed.
-- KEYS: the keys, and to take once, the key that says who took: '1', or 'b' and the time of a booked
--       turn. ARGV: 'take' or 'close'; to take, the milliseconds for which the last key is
--       kept ('' without it), the longest time for which a turn is booked (0 for none), how late a
--       turn may be used, and for each key the microseconds for one (0 for no limit), the capacity
--       and the cost; to close, the microseconds.
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

if ARGV[1] == 'close' then
    local full_at, interval, closed = read(KEYS[1])
    write(KEYS[1], full_at, interval, math.max(closed, now + tonumber(ARGV[2])))
    return 0
end

-- What the clock or a new limit clamped is stored even if nothing is taken: otherwise the time that
-- passes would not shorten the wait.
local wait, debt, taken, clamped = 0, 0, {}, {}
local keep, longest, late = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local count, once, said = (#ARGV - 4) / 3, nil, ''
if keep ~= '' then
    once = KEYS[count + 1]
    said = redis.call('get', once) or ''
end
local turn = tonumber(string.match(said, '^b(%d+)$') or 0)
local has_turn = turn > 0 and now <= turn + late
if has_turn then wait = math.max(0, turn - now) end
for index = 1, count do
    local key, at = KEYS[index], 3 * index + 2
    local interval, capacity = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
    local cost = tonumber(ARGV[at + 2])
    if has_turn or said == '1' then interval = 0 end
    local full_at, old_interval, closed, is_clamped = read(key)
    wait = math.max(wait, closed - now)
    if interval == 0 then
        if is_clamped then clamped[#clamped + 1] = {key, full_at, old_interval, closed} end
    else
        -- A booked turn comes after the closure.
        local from = longest > 0 and math.max(now, closed) or now
        local used, most = math.max(0, full_at - from), capacity * interval + longest
        if old_interval > 0 and old_interval ~= interval then
            used, is_clamped = math.ceil(used / old_interval * interval), true
        end
        if used > most then
            used, is_clamped = most, true
        end
        if is_clamped then clamped[#clamped + 1] = {key, from + used, interval, closed} end
        used = used + cost * interval
        debt = math.max(debt, used - capacity * interval)
        wait = math.max(wait, from - now + used - capacity * interval)
        taken[#taken + 1] = {key, from + used, interval, closed}
    end
end
local is_booked = wait > 0 and #taken > 0 and longest > 0 and once and debt <= longest
for _, one in ipairs(wait > 0 and not is_booked and clamped or taken) do write(unpack(one)) end
if is_booked then
    redis.call('set', once, string.format('b%.0f', now + wait), 'px', keep)
elseif once and wait <= 0 and (#taken > 0 or has_turn) then
    redis.call('set', once, '1', 'px', keep)
end
return string.format('%.0f', wait)
