-- Leases. A sorted set for each key: owners by the unix milliseconds at which their lease ends.
-- KEYS: the set. ARGV: 'hold', 'let_go' or 'held', the owner, the number of leases, the milliseconds
--       for which a lease lasts.
-- Returns: for 'hold', 1 or 0; for 'held', the number that are taken.
local key, what, owner = KEYS[1], ARGV[1], ARGV[2]
local time = redis.call('time')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

if what == 'let_go' then return redis.call('zrem', key, owner) end
redis.call('zremrangebyscore', key, '-inf', now)
if what == 'held' then return redis.call('zcard', key) end
if not redis.call('zscore', key, owner) and redis.call('zcard', key) >= tonumber(ARGV[3]) then
    return 0
end
redis.call('zadd', key, string.format('%.0f', now + tonumber(ARGV[4])), owner)
local last = redis.call('zrange', key, -1, -1, 'withscores')
redis.call('pexpireat', key, last[2])
return 1
