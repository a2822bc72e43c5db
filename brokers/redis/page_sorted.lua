-- Returns one page of the scheduled messages or of the dead letters.
--
-- ARGV: 'scheduled' or 'dead', maximum messages, maximum bytes, lowest score,
--       score and id of the last message of the previous page ('' for the first page)
-- Returns: ids, scores, bodies (nil if deleted), whether there are more

local set, hash = scheduled, scheduled_bodies
if ARGV[1] == 'dead' then set, hash = dead, dead_bodies end
local limit, max_bytes = math.min(tonumber(ARGV[2]), CHUNK), tonumber(ARGV[3])
local least, last_score, last_id = ARGV[4], tonumber(ARGV[5]), ARGV[6]

-- The order of Redis for equal scores; Lua's < depends on the locale.
local function is_before(a, b)
    for i = 1, math.min(#a, #b) do
        local left, right = a:byte(i), b:byte(i)
        if left ~= right then return left < right end
    end
    return #a < #b
end

local first
if not last_score then
    first = redis.call('zcount', set, '-inf', '(' .. least)
elseif tonumber(redis.call('zscore', set, last_id) or 'nan') == last_score then
    first = redis.call('zrank', set, last_id) + 1
else
    -- The last message was removed: a binary search finds the message after it.
    first = redis.call('zcount', set, '-inf', '(' .. ARGV[5])
    local last = redis.call('zcount', set, '-inf', ARGV[5])
    while first < last do
        local middle = math.floor((first + last) / 2)
        if is_before(last_id, redis.call('zrange', set, middle, middle)[1]) then
            last = middle
        else
            first = middle + 1
        end
    end
end

local ids, scores, page_bodies = {}, {}, {}
local pairs_ = redis.call('zrange', set, first, first + limit - 1, 'withscores')
for i = 1, #pairs_, 2 do
    ids[#ids + 1], scores[#scores + 1] = pairs_[i], pairs_[i + 1]
end
if #ids > 0 then page_bodies = redis.call('hmget', hash, unpack(ids)) end
local keep = fitting(page_bodies, #ids, max_bytes)
for i = #ids, keep + 1, -1 do ids[i], scores[i], page_bodies[i] = nil, nil, nil end

return {ids, scores, page_bodies, redis.call('zcard', set) > first + keep and 1 or 0}
