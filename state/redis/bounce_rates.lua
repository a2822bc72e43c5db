-- Numbers of e-mails of a group. KEYS: the number sent, the set of bounces. ARGV: the milliseconds
-- for which they are kept; to count e-mails, their number and ''; to count a bounce, 0 and its name.
-- Returns: the number sent, the number of bounces.
local keep, sent, bounce = ARGV[1], ARGV[2], ARGV[3]
if sent ~= '0' then
    redis.call('incrby', KEYS[1], sent)
    redis.call('pexpire', KEYS[1], keep)
end
if bounce ~= '' then
    redis.call('sadd', KEYS[2], bounce)
    redis.call('pexpire', KEYS[2], keep)
end
return {tonumber(redis.call('get', KEYS[1]) or 0), redis.call('scard', KEYS[2])}
