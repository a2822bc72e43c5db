-- Numbers of e-mails of a group. KEYS: the number sent, the set of bounces, the groups with bounces
-- by the time of the newest. ARGV: the milliseconds for which they are kept; to count e-mails, their
-- number and ''; to count a bounce, 0 and its digest; the group, the maximum number of groups.
-- Returns: the number sent, the number of bounces.
local keep, sent, bounce, group, most = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
if sent ~= '0' then
    redis.call('incrby', KEYS[1], sent)
    redis.call('pexpire', KEYS[1], keep)
end
if bounce ~= '' then
    redis.call('sadd', KEYS[2], bounce)
    redis.call('pexpire', KEYS[2], keep)
    local time = redis.call('time')
    redis.call('zadd', KEYS[3], time[1] * 1000 + math.floor(time[2] / 1000), group)
    redis.call('zremrangebyrank', KEYS[3], 0, -1 - most)
    redis.call('pexpire', KEYS[3], keep)
end
return {tonumber(redis.call('get', KEYS[1]) or 0), redis.call('scard', KEYS[2])}
