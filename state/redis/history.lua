-- Adds counts to the buckets of the history. A bucket is two hashes, by queue: the counts, which are
-- unsigned 32-bit integers, little-endian (done, retried, dead, deferred, bins of durations up to the
-- last with a count); and the error groups, pairs "group=number" separated by spaces.
-- KEYS: the number of the last call of this source; then for each bucket its counts and its errors.
-- ARGV: the number of this call, the milliseconds for which that is kept, the maximum numbers of
--       queues, of queues with errors, and of error groups, the name for queues and groups beyond;
--       the milliseconds for which each bucket is kept; then queue, counts and errors, repeated.
-- Returns: 1; 0 if the call was made before.
local number, keep_number = tonumber(ARGV[1]), ARGV[2]
local max_queues, max_failing, max_groups = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local other, buckets = ARGV[6], (#KEYS - 1) / 2

if number <= tonumber(redis.call('get', KEYS[1]) or -1) then return 0 end
redis.call('set', KEYS[1], number, 'px', keep_number)

local function unpacked(data)
    local count = #data / 4
    local found = {struct.unpack('<' .. string.rep('I4', count), data)}
    found[count + 1] = nil  -- the position behind the last number
    return found
end

local function sum(old, new)
    if old == '' then return new end
    if #old < #new then old, new = new, old end
    local sums = unpacked(old)
    for at, count in ipairs(unpacked(new)) do
        sums[at] = math.min(sums[at] + count, 4294967295)
    end
    return struct.pack('<' .. string.rep('I4', #sums), unpack(sums))
end

-- Returns the sums of pairs by name, and their names.
local function sum_pairs(old, new)
    local sums, names = {}, {}
    for _, pairs in ipairs({old, new}) do
        for name, count in string.gmatch(pairs, '(%S+)=(%d+)') do
            if not sums[name] then
                sums[name] = 0
                names[#names + 1] = name
            end
            sums[name] = sums[name] + tonumber(count)
        end
    end
    return sums, names
end

local function text(sums, names)
    local found = {}
    for at, name in ipairs(names) do found[at] = string.format('%s=%.0f', name, sums[name]) end
    return table.concat(found, ' ')
end

-- Keeps the most frequent groups, and adds up the others.
local function limit(sums, names)
    local groups = {}
    for _, name in ipairs(names) do
        if name ~= other then groups[#groups + 1] = name end
    end
    if #groups <= max_groups then return names end
    table.sort(groups, function(a, b)
        if sums[a] ~= sums[b] then return sums[a] > sums[b] end
        return a < b
    end)
    sums[other] = sums[other] or 0
    for at = max_groups + 1, #groups do
        sums[other] = sums[other] + sums[groups[at]]
        groups[at] = nil
    end
    groups[max_groups + 1] = other
    return groups
end

-- Returns the queue under which a value is stored, and the value that is stored already.
local function find(key, queue, most)
    local old = redis.call('hget', key, queue)
    if not old and redis.call('hlen', key) >= most then
        queue = other
        old = redis.call('hget', key, queue)
    end
    return queue, old or ''
end

for bucket = 1, buckets do
    local counts, errors, keep = KEYS[2 * bucket], KEYS[2 * bucket + 1], ARGV[6 + bucket]
    local has_errors = false
    for at = 7 + buckets, #ARGV, 3 do
        local queue, old = find(counts, ARGV[at], max_queues)
        redis.call('hset', counts, queue, sum(old, ARGV[at + 1]))
        if ARGV[at + 2] ~= '' then
            has_errors = true
            queue, old = find(errors, ARGV[at], max_failing)
            local sums, names = sum_pairs(old, ARGV[at + 2])
            redis.call('hset', errors, queue, text(sums, limit(sums, names)))
        end
    end
    redis.call('pexpire', counts, keep)
    if has_errors then redis.call('pexpire', errors, keep) end
end
return 1
