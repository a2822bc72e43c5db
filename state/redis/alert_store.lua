-- The store that monitors share.
-- KEYS: the hash 'leader' (name), 'until' (unix milliseconds), 'states' (JSON); the outbox, a hash of
--       JSON by key; its index, a sorted set of keys by the time when they were added; the monitors, a
--       hash of 'seen ahead' by name. A key of the outbox is the receiver, a space and an id.
-- ARGV: 'lead', name, milliseconds for which the lease lasts, the monitor's clock in unix
--       milliseconds, milliseconds for which a monitor is remembered, maximum number of monitors;
--       'let_go', name;
--       'commit', name, states, milliseconds for which everything is kept, maximum number of entries
--       of a receiver, then for each entry: key, milliseconds when it was added, JSON;
--       'settle', number of delivered entries, key of each, then key and JSON of each entry that
--       failed.
-- Returns: for 'lead', 1 or 0, the time, the end of the lease, the leader, and name and ahead of each
--       monitor; for 'commit', the number of dropped entries, or -1 if another monitor leads.
local main, outbox, index, monitors = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local what, name = ARGV[1], ARGV[2]

if what == 'settle' then
    local first = 3 + tonumber(ARGV[2])
    for at = 3, first - 1 do
        redis.call('hdel', outbox, ARGV[at])
        redis.call('zrem', index, ARGV[at])
    end
    for at = first, #ARGV, 2 do
        if redis.call('hexists', outbox, ARGV[at]) == 1 then
            redis.call('hset', outbox, ARGV[at], ARGV[at + 1])
        end
    end
    return 0
end

local time = redis.call('time')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local leader = redis.call('hget', main, 'leader')
local ends = tonumber(redis.call('hget', main, 'until') or '0')

if what == 'let_go' then
    redis.call('hdel', monitors, name)
    if leader == name then redis.call('hdel', main, 'leader', 'until') end
    return 0
end

if what == 'lead' then
    if not leader or leader == name or now >= ends then
        leader, ends = name, now + tonumber(ARGV[3])
        redis.call('hset', main, 'leader', name, 'until', string.format('%.0f', ends))
    end
    local ahead = string.format('%.0f', tonumber(ARGV[4]) - now)
    redis.call('hset', monitors, name, string.format('%.0f', now) .. ' ' .. ahead)
    redis.call('pexpire', monitors, ARGV[5])
    local found = {leader == name and 1 or 0, string.format('%.0f', now), string.format('%.0f', ends), leader}
    local all = redis.call('hgetall', monitors)
    local known = #all / 2
    for each = 1, #all, 2 do
        local seen, clock = string.match(all[each + 1], '^(%S+) (%S+)$')
        local is_old = now - tonumber(seen) > tonumber(ARGV[5])
        if is_old or (known > tonumber(ARGV[6]) and all[each] ~= name and all[each] ~= leader) then
            redis.call('hdel', monitors, all[each])
            known = known - 1
        else
            found[#found + 1] = all[each]
            found[#found + 1] = clock
        end
    end
    return found
end

-- commit
if leader ~= name or now >= ends then return -1 end
redis.call('hset', main, 'states', ARGV[3])
local keep, most, dropped = ARGV[4], tonumber(ARGV[5]), 0
for at = 6, #ARGV, 3 do
    if redis.call('hsetnx', outbox, ARGV[at], ARGV[at + 2]) == 1 then
        redis.call('zadd', index, ARGV[at + 1], ARGV[at])
    end
end
if redis.call('zcard', index) > most then
    local counts = {}
    for _, key in ipairs(redis.call('zrevrange', index, 0, -1)) do
        local receiver = string.match(key, '^[^ ]*')
        counts[receiver] = (counts[receiver] or 0) + 1
        if counts[receiver] > most then
            redis.call('hdel', outbox, key)
            redis.call('zrem', index, key)
            dropped = dropped + 1
        end
    end
end
for at = 1, 3 do
    redis.call('pexpire', KEYS[at], keep)
end
return dropped
