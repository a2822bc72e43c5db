-- The long tasks of operators. The hash of a task has its fields as JSON ('task'), when it began and was
-- written last ('began', 'updated', unix milliseconds), whether it is over ('over'), and who asked to
-- stop it ('by').
-- KEYS: the index (ids by the time when they began), the hash of the task.
-- ARGV: 'write', id, task, 1 if it is over, milliseconds for which it is kept, maximum number of tasks;
--       'stop', id, who.
-- Returns: for 'write', who asked to stop the task; for 'stop', 1, or 0 if it is over or unknown.
local index, key = KEYS[1], KEYS[2]
local what, id = ARGV[1], ARGV[2]

if what == 'stop' then
    if redis.call('hget', key, 'over') ~= '0' then return 0 end
    redis.call('hsetnx', key, 'by', ARGV[3])
    return 1
end

local task, over, keep, most = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local time = redis.call('time')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local shown = string.format('%.0f', now)
if redis.call('hsetnx', key, 'began', shown) == 1 then
    -- Tasks that begin in the same millisecond stay in their order.
    local last = redis.call('zrevrange', index, 0, 0, 'withscores')
    local score = last[2] and math.max(now * 16, tonumber(last[2]) + 1) or now * 16
    redis.call('zadd', index, string.format('%.0f', score), id)
end
redis.call('hset', key, 'task', task, 'over', over, 'updated', shown)
redis.call('pexpire', key, keep)
redis.call('zremrangebyrank', index, 0, -most - 1)
redis.call('pexpire', index, keep)
return redis.call('hget', key, 'by')
