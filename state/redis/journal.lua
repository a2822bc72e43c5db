-- The journal of a job. The hash holds the claim ('claim': OWNER and its end in unix milliseconds),
-- the number of attempts ('attempts'), when the first began ('began'), notes ('n' and the name), and
-- outcomes ('r' and the digest of a recipient: STATE UNKNOWNS TIME TEXT).
-- KEYS: the hash. ARGV: the call, the owner, milliseconds of the claim ('' for calls that leave it),
--       milliseconds for which the journal is kept, its arguments.
-- Returns: for 'begin', the hash as a list, or the milliseconds for which another owner has the
--       claim; otherwise 1, or 0 if the owner does not have the claim.
local key = KEYS[1]
local what, owner, lasts, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local time = redis.call('time')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local function claim()
    return string.match(redis.call('hget', key, 'claim') or '', '^(%S+) (%d+)$')
end

local function take()
    local ends = now + tonumber(lasts)
    redis.call('hset', key, 'claim', string.format('%s %.0f', owner, ends))
end

-- An accepted recipient stays accepted.
local function set(name, state, text)
    local old, unknowns = string.match(redis.call('hget', key, name) or '', '^(%a+) (%d+)')
    if old == 'accepted' then return end
    unknowns = tonumber(unknowns or 0)
    if state == 'unknown' and old ~= state then unknowns = unknowns + 1 end
    redis.call('hset', key, name, string.format('%s %d %.0f %s', state, unknowns, now, text))
end

-- What was being sent when its worker died, may have been accepted.
local function lose_marks()
    local all = redis.call('hgetall', key)
    for i = 1, #all, 2 do
        if string.sub(all[i], 1, 1) == 'r' then
            local text = string.match(all[i + 1], '^sending %d+ %d+ (.*)$')
            if text then set(all[i], 'unknown', text) end
        end
    end
end

local held_by, held_until = claim()
if what == 'begin' then
    local ends_in = tonumber(held_until or 0) - now
    -- Its own claim: a call whose answer was lost is repeated.
    if held_by and held_by ~= owner and ends_in > 0 then return ends_in end
    if held_by ~= owner then
        lose_marks()
        redis.call('hincrby', key, 'attempts', 1)
        redis.call('hsetnx', key, 'began', string.format('%.0f', now))
    end
    take()
    local after = 5 + 2 * tonumber(ARGV[5])
    for i = 6, after, 2 do redis.call('hsetnx', key, 'n' .. ARGV[i], ARGV[i + 1]) end
    for i = after + 1, #ARGV do redis.call('hsetnx', key, 'r' .. ARGV[i], 'waiting 0 0 ') end
    redis.call('pexpire', key, keep)
    return redis.call('hgetall', key)
end

if what == 'mark' then
    if redis.call('exists', key) == 0 then return 0 end
    for i = 5, #ARGV, 2 do redis.call('hset', key, 'n' .. ARGV[i], ARGV[i + 1]) end
    return 1
end

local is_ours = held_by == owner
if what == 'settle' or is_ours then
    if what == 'renew' then
        take()
    elseif what == 'sending' then
        local after = 5 + 2 * tonumber(ARGV[5])
        for i = after + 1, #ARGV do
            local found = redis.call('hget', key, 'r' .. ARGV[i]) or ''
            if string.sub(found, 1, 8) == 'accepted' then return 0 end
        end
        for i = after + 1, #ARGV do set('r' .. ARGV[i], 'sending', '') end
        for i = 6, after, 2 do redis.call('hset', key, 'n' .. ARGV[i], ARGV[i + 1]) end
    elseif what == 'settle' then
        for i = 6, #ARGV, 3 do
            if is_ours or ARGV[i + 1] == 'accepted' then
                set('r' .. ARGV[i], ARGV[i + 1], ARGV[i + 2])
            end
        end
    elseif what == 'note' then
        for i = 5, #ARGV, 2 do redis.call('hset', key, 'n' .. ARGV[i], ARGV[i + 1]) end
    end
    if is_ours and (what == 'end' or what == 'settle' and ARGV[5] == '1') then
        lose_marks()
        redis.call('hdel', key, 'claim')
    end
    redis.call('pexpire', key, keep)
end
return is_ours and 1 or 0
