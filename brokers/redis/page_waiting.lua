-- Returns one page of the waiting messages, in the order of delivery: the highest priority first,
-- then messages without a priority, then plain jobs.
--
-- ARGV: maximum messages, maximum bytes,
--       of the last message of the previous page: number of its list (0 for the first page), index
--       in the list from 0, id
-- Returns: ids, bodies (nil if deleted), list and index of the last message, whether there are more

local limit, max_bytes = math.min(tonumber(ARGV[1]), CHUNK), tonumber(ARGV[2])
local seen_list, seen_at, seen_id = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]

local lists = {}
for priority = 9, 1, -1 do lists[#lists + 1] = waiting .. '.p' .. priority end
lists[#lists + 1] = waiting
lists[#lists + 1] = inbox
if on_old_inbox('exists') then lists[#lists + 1] = old_inbox end
local function is_inbox(list) return list == inbox or list == old_inbox end

-- Returns the index in a list after the last message seen. That message may have moved to the left,
-- since messages before it were fetched, or may have been fetched. The search ends a little behind
-- its old index, so that it does not scan the whole list.
local function next_index(list)
    if is_inbox(list) or redis.call('lindex', list, seen_at) == seen_id then return seen_at + 1 end
    local index = redis.call('lpos', list, seen_id, 'maxlen', seen_at + CHUNK)
    return index and index + 1 or 0
end

local ids, page_bodies, list_of_id, index_of_id = {}, {}, {}, {}
local more = false
for number = math.max(seen_list, 1), #lists do
    local list = lists[number]
    local first = number == seen_list and next_index(list) or 0
    local length = redis.call('llen', list)
    if #ids == limit then
        more = more or length > first
    else
        local items = redis.call('lrange', list, first, first + limit - #ids - 1)
        for i, item in ipairs(items) do
            ids[#ids + 1] = is_inbox(list) and '' or item
            list_of_id[#ids], index_of_id[#ids] = number, first + i - 1
            page_bodies[#ids] = is_inbox(list) and item
                or redis.call('hget', bodies, item)
        end
        more = more or length > first + #items
    end
end

local keep = fitting(page_bodies, #ids, max_bytes)
more = more or keep < #ids
for i = #ids, keep + 1, -1 do ids[i], page_bodies[i] = nil, nil end

return {ids, page_bodies, list_of_id[keep] or 0, index_of_id[keep] or 0, more and 1 or 0}
