-- One page of the waiting, in the order in which they will be fetched: the highest
-- priority first, then those without one, then what other publishers have pushed.
--
-- ARGV: how many, in how many bytes,
--       of the last one seen: list (0 before the first page), place in it from 0, id
-- Returns: ids, bodies (nil: gone), list and place of the last one, whether there are more

local room, most_bytes = math.min(tonumber(ARGV[1]), CHUNK), tonumber(ARGV[2])
local seen_list, seen_at, seen_id = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]

local lists = {}
for level = 9, 1, -1 do lists[#lists + 1] = waiting .. '.p' .. level end
lists[#lists + 1] = waiting
lists[#lists + 1] = inbox
if on_old_inbox('exists') then lists[#lists + 1] = old_inbox end
local function is_inbox(list) return list == inbox or list == old_inbox end

-- Where to go on in the list that the last one seen is in. It stands where it stood, or,
-- since others have been fetched, further to the left; or it was fetched itself, and with it
-- all before it. The search is over the places seen so far, never over what lies behind.
local function go_on(list)
    if is_inbox(list) or redis.call('lindex', list, seen_at) == seen_id then return seen_at + 1 end
    local place = redis.call('lpos', list, seen_id, 'maxlen', seen_at + CHUNK)
    return place and place + 1 or 0
end

local ids, found, list_of_id, place_of_id = {}, {}, {}, {}
local more = false
for number = math.max(seen_list, 1), #lists do
    local list = lists[number]
    local first = number == seen_list and go_on(list) or 0
    local length = redis.call('llen', list)
    if #ids == room then
        more = more or length > first
    else
        local items = redis.call('lrange', list, first, first + room - #ids - 1)
        for i, item in ipairs(items) do
            ids[#ids + 1] = is_inbox(list) and '' or item
            list_of_id[#ids], place_of_id[#ids] = number, first + i - 1
            found[#ids] = is_inbox(list) and item
                or redis.call('hget', bodies, item)
        end
        more = more or length > first + #items
    end
end

local keep = fitting(found, #ids, most_bytes)
more = more or keep < #ids
for i = #ids, keep + 1, -1 do ids[i], found[i] = nil, nil end

return {ids, found, list_of_id[keep] or 0, place_of_id[keep] or 0, more and 1 or 0}
