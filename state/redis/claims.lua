-- A call of the store of claims of one spreadsheet. All times in milliseconds.
-- KEYS: 1 a hash: 'j' .. job -> 'd' (done) or its open tokens, separated by commas;
--         't' .. token -> the jobs that an open token claims, 'x' .. token -> another call fences it
--         'p' .. place -> order of the newest job written to it | its open tokens,
--         'q' .. token -> the places that an open token claims: place=order, separated by commas
--       2 a sorted set: job, or '!' .. place -> when it is forgotten
--       3 a sorted set: open token -> when it was claimed
--       4 a sorted set: token with an entry in the spreadsheet -> when the entry can be deleted
-- ARGV: 1 the call, 2 how long open jobs are kept, 3 how long done jobs are kept, 4 how long fences
--       stay; for 'claim': 5 number of entries to keep, 6 maximum number of evicted entries,
--       7 many open tokens, 8 maximum number of stale tokens, 9 the token, 10 number of places, then
--       each place and its order, then jobs; for 'settle': numbers of applied, void, refused, done
--       and evicted, then these.
-- Returns: for 'claim', {indexes of done jobs, indexes of unknown jobs, open tokens, evictable
--       tokens, order of the newest job of each place}; for 'settle', 1.
local hash, jobs, open, entries = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local keep_open, keep_done, fence = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('time')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local function each(text, call)
    for part in string.gmatch(text or '', '[^,]+') do call(part) end
end

local function without(text, token)
    local rest = {}
    each(text, function(part) if part ~= token then rest[#rest + 1] = part end end)
    return table.concat(rest, ',')
end

local function place_of(place)
    local newest, tokens = string.match(redis.call('hget', hash, 'p' .. place) or '', '^(%d+)|(.*)')
    return newest or '0', tokens or ''
end

-- An open token ends: its places forget it. If it was applied, its orders may be the newest.
local function leave_places(token, is_applied)
    each(redis.call('hget', hash, 'q' .. token), function(pair)
        local place, order = string.match(pair, '^(.-)=(%d+)$')
        local newest, tokens = place_of(place)
        if is_applied and tonumber(order) > tonumber(newest) then newest = order end
        redis.call('hset', hash, 'p' .. place, newest .. '|' .. without(tokens, token))
    end)
    redis.call('hdel', hash, 'q' .. token)
end

-- An open token ends without an effect: its jobs forget it.
local function forget(token)
    leave_places(token, false)
    each(redis.call('hget', hash, 't' .. token), function(job)
        local found = redis.call('hget', hash, 'j' .. job)
        if found and found ~= 'd' then
            redis.call('hset', hash, 'j' .. job, without(found, token))
        end
    end)
    redis.call('hdel', hash, 't' .. token, 'x' .. token)
    redis.call('zrem', open, token)
end

local function finish(job)
    redis.call('hset', hash, 'j' .. job, 'd')
    redis.call('zadd', jobs, now + keep_done, job)
end

local function keep_keys()
    for _, key in ipairs(KEYS) do redis.call('pexpire', key, math.max(keep_open, keep_done)) end
end

if ARGV[1] == 'claim' then
    for _, job in ipairs(redis.call('zrangebyscore', jobs, '-inf', now, 'limit', 0, 500)) do
        local is_place = string.sub(job, 1, 1) == '!'
        redis.call('hdel', hash, is_place and 'p' .. string.sub(job, 2) or 'j' .. job)
        redis.call('zrem', jobs, job)
    end
    for _, token in ipairs(redis.call('zrangebyscore', open, '-inf', now - keep_open)) do
        forget(token)
    end
    local token = ARGV[9]
    local done, unknown, mine, fenced, order = {}, {}, {}, {}, {}
    local function add(other)
        if other ~= token and not fenced[other] then
            fenced[other] = true
            order[#order + 1] = other
        end
    end
    local first_job = 11 + 2 * tonumber(ARGV[10])
    for index = first_job, #ARGV do
        local job = ARGV[index]
        local found = redis.call('hget', hash, 'j' .. job)
        if found == 'd' then
            done[#done + 1] = index - first_job
        else
            -- A claim whose answer was lost is repeated with the same token.
            if not found or found == token then unknown[#unknown + 1] = index - first_job end
            local others = without(found or '', token)
            each(others, add)
            redis.call('hset', hash, 'j' .. job, others == '' and token or others .. ',' .. token)
            redis.call('zadd', jobs, now + keep_open, job)
            mine[#mine + 1] = job
        end
    end
    local newest_of, pairs_of = {}, {}
    for index = 11, first_job - 1, 2 do
        local place = ARGV[index]
        local newest, tokens = place_of(place)
        newest_of[#newest_of + 1] = newest
        if #mine > 0 then
            local others = without(tokens, token)
            each(others, add)
            others = others == '' and token or others .. ',' .. token
            redis.call('hset', hash, 'p' .. place, newest .. '|' .. others)
            redis.call('zadd', jobs, now + keep_open, '!' .. place)
            pairs_of[#pairs_of + 1] = place .. '=' .. ARGV[index + 1]
        end
    end
    if #mine > 0 then
        redis.call('hset', hash, 't' .. token, table.concat(mine, ','))
        if #pairs_of > 0 then
            redis.call('hset', hash, 'q' .. token, table.concat(pairs_of, ','))
        end
        redis.call('zadd', open, now, token)
        if redis.call('zcard', open) > tonumber(ARGV[7]) then
            local old = redis.call(
                'zrangebyscore', open, '-inf', now - fence, 'limit', 0, tonumber(ARGV[8]))
            for _, other in ipairs(old) do add(other) end
        end
    end
    for _, other in ipairs(order) do redis.call('hset', hash, 'x' .. other, '1') end
    local number = math.min(redis.call('zcard', entries) - tonumber(ARGV[5]), tonumber(ARGV[6]))
    local evict = {}
    if number > 0 then
        evict = redis.call('zrangebyscore', entries, '-inf', now, 'limit', 0, number)
    end
    keep_keys()
    return {done, unknown, order, evict, newest_of}
end

local at = 9
local function take(number, call)
    for index = at + 1, at + tonumber(number) do call(ARGV[index]) end
    at = at + tonumber(number)
end
take(ARGV[5], function(token)
    local claimed = redis.call('hget', hash, 't' .. token)
    local is_fenced = not claimed or redis.call('hexists', hash, 'x' .. token) == 1
    leave_places(token, true)
    each(claimed, finish)
    redis.call('hdel', hash, 't' .. token, 'x' .. token)
    redis.call('zrem', open, token)
    redis.call('zadd', entries, is_fenced and now + fence or now, token)
end)
take(ARGV[6], function(token)
    forget(token)
    redis.call('zadd', entries, now + fence, token)
end)
take(ARGV[7], forget)
take(ARGV[8], finish)
take(ARGV[9], function(token) redis.call('zrem', entries, token) end)
keep_keys()
return 1
