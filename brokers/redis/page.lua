-- Included in the scripts that return a page.

-- Returns how many of the bodies fit into one answer, at least one.
local function fitting(page_bodies, count, max_bytes)
    local bytes = 0
    for i = 1, count do
        bytes = bytes + (page_bodies[i] and #page_bodies[i] or 0)
        if bytes > max_bytes and i > 1 then return i - 1 end
    end
    return count
end

-- The order of Redis for equal scores; Lua's < depends on the locale.
local function is_before(a, b)
    for i = 1, math.min(#a, #b) do
        local left, right = a:byte(i), b:byte(i)
        if left ~= right then return left < right end
    end
    return #a < #b
end

-- Returns how many members of a sorted set are before a score and an id, and whether this member
-- exists.
local function rank_of(set, score, id)
    if tonumber(redis.call('zscore', set, id) or 'nan') == tonumber(score) then
        return redis.call('zrank', set, id), true
    end
    -- The member was removed: a binary search finds its place.
    local first = redis.call('zcount', set, '-inf', '(' .. score)
    local last = redis.call('zcount', set, '-inf', score)
    while first < last do
        local middle = math.floor((first + last) / 2)
        if is_before(id, redis.call('zrange', set, middle, middle)[1]) then
            last = middle
        else
            first = middle + 1
        end
    end
    return first, false
end
