-- One call of the ledger on one key: 'l' and the owner while a job runs, 'r' and its result after.
-- KEYS: the key. ARGV: what to do, the owner, how long in milliseconds, the result,
--       the key's name in older versions ('' where it had none).
-- Returns: for 'begin', {'free'}, {'held', milliseconds} or {'known', result}; else 1 or 0.
local key = KEYS[1]
local what, owner, lasts, result = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local found = redis.call('get', key)
local is_ours = found == 'l' .. owner

-- A call whose answer was lost may come again: the second time says what the first one said.
if what == 'begin' then
    if not found and ARGV[5] ~= '' then
        -- With pcall: a user without a right to the old keys works without them.
        local old = redis.pcall('get', ARGV[5])
        if type(old) == 'string' then key, found = ARGV[5], old end
    end
    if not found or found == 'l' .. owner then
        redis.call('set', key, 'l' .. owner, 'px', lasts)
        return {'free'}
    end
    if string.sub(found, 1, 1) == 'r' then return {'known', string.sub(found, 2)} end
    return {'held', redis.call('pttl', key)}
end

if what == 'finish' then
    -- Where the lock has ended and nobody took it, what was done is known all the same.
    if found and not is_ours and found ~= 'r' .. result then return 0 end
    redis.call('set', key, 'r' .. result, 'px', lasts)
    return 1
end

if not is_ours then return 0 end
if what == 'renew' then redis.call('pexpire', key, lasts) else redis.call('del', key) end
return 1
