-- Returns one page of the scheduled messages or of the dead letters.
--
-- ARGV: 'scheduled' or 'dead', maximum messages, maximum bytes, lowest score,
--       score and id of the last message of the previous page ('' for the first page)
-- Returns: ids, scores, bodies (nil if deleted), whether there are more

local set, hash = scheduled, scheduled_bodies
if ARGV[1] == 'dead' then set, hash = dead, dead_bodies end
local limit, max_bytes = math.min(tonumber(ARGV[2]), CHUNK), tonumber(ARGV[3])
local least, last_score, last_id = ARGV[4], ARGV[5], ARGV[6]

local first
if last_score == '' then
    first = redis.call('zcount', set, '-inf', '(' .. least)
else
    local rank, exists = rank_of(set, last_score, last_id)
    first = exists and rank + 1 or rank
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
