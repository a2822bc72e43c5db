-- A call of the idempotency store. A key holds 'l' and the owner while a job is running, and 'r'
-- and the result when it has finished.
-- KEYS: the key. ARGV: the call, the owner, the time to live in milliseconds, the result,
--       the name of the key in older versions ('' for none).
-- Returns: for 'begin', {'free'}, {'running', milliseconds} or {'finished', result};
--       otherwise 1 or 0.
local key = KEYS[1]
local what, owner, lasts, result = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local found = redis.call('get', key)
local is_ours = found == 'l' .. owner

-- A call whose answer was lost is repeated: the repetition returns the same answer.
if what == 'begin' then
    if not found and ARGV[5] ~= '' then
        -- With pcall: a user without permission to read the old keys works without them.
        local old = redis.pcall('get', ARGV[5])
        if type(old) == 'string' then key, found = ARGV[5], old end
    end
    if not found or found == 'l' .. owner then
        redis.call('set', key, 'l' .. owner, 'px', lasts)
        return {'free'}
    end
    if string.sub(found, 1, 1) == 'r' then return {'finished', string.sub(found, 2)} end
    return {'running', redis.call('pttl', key)}
end

if what == 'finish' then
    -- The result is stored too if the lock has expired and nobody took it.
    if found and not is_ours and found ~= 'r' .. result then return 0 end
    redis.call('set', key, 'r' .. result, 'px', lasts)
    return 1
end

if not is_ours then return 0 end
if what == 'renew' then redis.call('pexpire', key, lasts) else redis.call('del', key) end
return 1
