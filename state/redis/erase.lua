-- Deletes values that are unchanged, and outcomes of an address in journals.
-- KEYS: the keys. ARGV: 'values' or 'journals'; for values: the SHA-1 of each;
--       for journals: 1 for a dry run or 0, then the name of the field in each
-- Returns: for each key, 1 if it was changed (or would be), 2 for a journal that is not over, else 0
local changed = {}

if ARGV[1] == 'values' then
    for i, key in ipairs(KEYS) do
        local value = redis.call('get', key)
        local is_same = value and redis.sha1hex(value) == ARGV[i + 1]
        changed[i] = is_same and redis.call('del', key) or 0
    end
    return changed
end

local time = redis.call('time')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- Whether the e-mail may still be sent to others, and how many recipients it has.
local function state_of(key)
    local is_open, count = false, 0
    local all = redis.call('hgetall', key)
    for i = 1, #all, 2 do
        if string.sub(all[i], 1, 1) == 'r' then
            count = count + 1
            local state = string.match(all[i + 1], '^%a+')
            if state ~= 'accepted' and state ~= 'refused' then is_open = true end
        elseif all[i] == 'claim' then
            is_open = is_open or tonumber(string.match(all[i + 1], '%d+$') or 0) > now
        end
    end
    return is_open, count
end

for i, key in ipairs(KEYS) do
    local field = ARGV[i + 2]
    changed[i] = 0
    if redis.call('hexists', key, field) == 1 then
        local is_open, count = state_of(key)
        if is_open then
            changed[i] = 2
        else
            changed[i] = 1
            if ARGV[2] == '0' then
                if count == 1 then redis.call('del', key) else redis.call('hdel', key, field) end
            end
        end
    end
end
return changed
