-- Reports of worker processes. KEYS: the hash (JSON by worker), the index (worker by the time of its
-- last report, unix milliseconds). ARGV: 'report', milliseconds for which a report is kept, the
-- worker, the JSON; 'remove', that time, the worker; 'read', that time, the maximum number.
-- Returns: for 'read', the worker, the age of its report in milliseconds and the JSON, repeated.
local CLEANED = 100  -- maximum number of expired reports removed in a call
local what, keep = ARGV[1], tonumber(ARGV[2])
local time = redis.call('time')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local oldest = string.format('%.0f', now - keep)

if what == 'read' then
    local found, newer = {}, '(' .. oldest
    local some = redis.call('zrevrangebyscore', KEYS[2], '+inf', newer, 'withscores', 'limit', 0, ARGV[3])
    for at = 1, #some, 2 do
        local json = redis.call('hget', KEYS[1], some[at])
        if json then
            found[#found + 1] = some[at]
            found[#found + 1] = string.format('%.0f', math.max(0, now - tonumber(some[at + 1])))
            found[#found + 1] = json
        end
    end
    return found
end

local over = redis.call('zrangebyscore', KEYS[2], '-inf', oldest, 'limit', 0, CLEANED)
if what == 'remove' then over[#over + 1] = ARGV[3] end
for _, worker in ipairs(over) do
    redis.call('hdel', KEYS[1], worker)
    redis.call('zrem', KEYS[2], worker)
end
if what == 'report' then
    redis.call('hset', KEYS[1], ARGV[3], ARGV[4])
    redis.call('zadd', KEYS[2], string.format('%.0f', now), ARGV[3])
    for at = 1, 2 do
        redis.call('pexpire', KEYS[at], keep)
    end
end
return 0
