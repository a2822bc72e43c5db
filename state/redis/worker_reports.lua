-- Reports of worker processes. KEYS: the hash (JSON by worker), the index (worker by the time of its
-- last report, unix milliseconds), the set of workers whose process has ended. A worker is the id of
-- its report. ARGV: what, milliseconds for which a report is kept, then:
--   'report': the worker, the JSON, the beginning of the ids of workers on its host, milliseconds
--     after which a worker is silent, the maximum number of silent workers to return
--   'mark_ended': the worker
--   'remove': the worker
--   'read': the maximum number
-- Returns: for 'read', all workers; for 'report', the silent workers of the host: the worker, the
-- age of its report in milliseconds, the JSON, 1 if its process has ended or else 0, repeated.
local CLEANED = 100  -- maximum number of expired reports removed, or of silent ones seen, in a call
local what, keep = ARGV[1], tonumber(ARGV[2])
local time = redis.call('time')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local oldest = string.format('%.0f', now - keep)

local found = {}
local function add(worker, at)
    local json = redis.call('hget', KEYS[1], worker)
    if json then
        found[#found + 1] = worker
        found[#found + 1] = string.format('%.0f', math.max(0, now - tonumber(at)))
        found[#found + 1] = json
        found[#found + 1] = redis.call('sismember', KEYS[3], worker)
    end
end

local newer = '(' .. oldest
if what == 'read' then
    local some = redis.call('zrevrangebyscore', KEYS[2], '+inf', newer, 'withscores', 'limit', 0, ARGV[3])
    for at = 1, #some, 2 do add(some[at], some[at + 1]) end
    return found
end

if what == 'mark_ended' then
    redis.call('sadd', KEYS[3], ARGV[3])
    redis.call('pexpire', KEYS[3], keep)
    return found
end

local over = redis.call('zrangebyscore', KEYS[2], '-inf', oldest, 'limit', 0, CLEANED)
if what == 'remove' then over[#over + 1] = ARGV[3] end
for _, worker in ipairs(over) do
    redis.call('hdel', KEYS[1], worker)
    redis.call('srem', KEYS[3], worker)
    redis.call('zrem', KEYS[2], worker)
end
if what == 'report' then
    redis.call('hset', KEYS[1], ARGV[3], ARGV[4])
    redis.call('zadd', KEYS[2], string.format('%.0f', now), ARGV[3])
    for at = 1, 2 do
        redis.call('pexpire', KEYS[at], keep)
    end
    local silent_since = string.format('%.0f', now - tonumber(ARGV[6]))
    local some = redis.call('zrevrangebyscore', KEYS[2], silent_since, newer, 'withscores', 'limit', 0, CLEANED)
    for at = 1, #some, 2 do
        if #found < 4 * tonumber(ARGV[7]) and string.sub(some[at], 1, #ARGV[5]) == ARGV[5] then
            add(some[at], some[at + 1])
        end
    end
end
return found
