-- A call of the store of claims of one spreadsheet. All times in milliseconds.
-- KEYS: 1 a hash: 'j' .. job -> 'd' (done) or its open tokens, separated by commas;
--         't' .. token -> the jobs that an open token claims, 'x' .. token -> another call fences it
--       2 a sorted set: job -> when it is forgotten
--       3 a sorted set: open token -> when it was claimed
--       4 a sorted set: token with an entry in the spreadsheet -> when the entry can be deleted
-- ARGV: 1 the call, 2 how long open jobs are kept, 3 how long done jobs are kept, 4 how long fences
--       stay; for 'claim': 5 number of entries to keep, 6 maximum number of evicted entries,
--       7 many open tokens, 8 maximum number of stale tokens, 9 the token, then jobs; for 'settle':
--       numbers of applied, void, refused, done and evicted, then these.
-- Returns: for 'claim', {indexes of done jobs, indexes of unknown jobs, open tokens, evictable
--       tokens}; for 'settle', 1.
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

-- An open token ends without an effect: its jobs forget it.
local function forget(token)
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
        redis.call('hdel', hash, 'j' .. job)
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
    for index = 10, #ARGV do
        local job = ARGV[index]
        local found = redis.call('hget', hash, 'j' .. job)
        if found == 'd' then
            done[#done + 1] = index - 10
        else
            -- A claim whose answer was lost is repeated with the same token.
            if not found or found == token then unknown[#unknown + 1] = index - 10 end
            local others = without(found or '', token)
            each(others, add)
            redis.call('hset', hash, 'j' .. job, others == '' and token or others .. ',' .. token)
            redis.call('zadd', jobs, now + keep_open, job)
            mine[#mine + 1] = job
        end
    end
    if #mine > 0 then
        redis.call('hset', hash, 't' .. token, table.concat(mine, ','))
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
    return {done, unknown, order, evict}
end

local at = 9
local function take(number, call)
    for index = at + 1, at + tonumber(number) do call(ARGV[index]) end
    at = at + tonumber(number)
end
take(ARGV[5], function(token)
    local claimed = redis.call('hget', hash, 't' .. token)
    local is_fenced = not claimed or redis.call('hexists', hash, 'x' .. token) == 1
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
