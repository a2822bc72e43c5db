-- Returns one page of the dead letters, the newest first.
--
-- ARGV: maximum messages, maximum bytes, lowest score, highest score (as ZCOUNT takes it),
--       id of the last message of the previous page, whose score is then the highest ('' for none)
-- Returns: ids, scores, bodies (nil if deleted), whether there are more

local limit, max_bytes = math.min(tonumber(ARGV[1]), CHUNK), tonumber(ARGV[2])
local least, highest, last_id = ARGV[3], ARGV[4], ARGV[5]

local first = redis.call('zcount', dead, '-inf', '(' .. least)
local after
if last_id == '' then
    after = redis.call('zcount', dead, '-inf', highest)
else
    after = rank_of(dead, highest, last_id)
end
local start = math.max(first, after - limit)

local ids, scores, page_bodies = {}, {}, {}
if start < after then
    local pairs_ = redis.call('zrange', dead, start, after - 1, 'withscores')
    for i = #pairs_ - 1, 1, -2 do
        ids[#ids + 1], scores[#scores + 1] = pairs_[i], pairs_[i + 1]
    end
end
if #ids > 0 then page_bodies = redis.call('hmget', dead_bodies, unpack(ids)) end
local keep = fitting(page_bodies, #ids, max_bytes)
for i = #ids, keep + 1, -1 do ids[i], scores[i], page_bodies[i] = nil, nil, nil end

return {ids, scores, page_bodies, after - keep > first and 1 or 0}
