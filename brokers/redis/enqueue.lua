-- Writes messages to one queue, all or none.
--
-- ARGV: the sender's now (unix ms),
--       '1' if the call is repeated because its answer was lost, else '0',
--       then four for each message: id, due (unix ms, '' for now), priority ('' for none), body

local skew = now - tonumber(ARGV[1])
local must_wake = false

-- A repeated call skips the messages that the first call has written: same id and same body. They
-- are looked up before anything is written, since one call may contain a message twice.
local known = {}
local function is_known(id, body)
    return redis.call('hget', bodies, id) == body
        or redis.call('hget', scheduled_bodies, id) == body
        or redis.call('hget', dead_bodies, id) == body
end
if ARGV[2] == '1' then
    next_number() -- WAIT needs a write on its connection, even if all messages are skipped
    for i = 3, #ARGV, 4 do known[i] = is_known(ARGV[i], ARGV[i + 3]) end
end

for i = 3, #ARGV, 4 do
    local id, due, priority, body = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
    if known[i] then
        must_wake = must_wake or due == ''
    elseif due == '' then
        id = add_waiting(id, body)
        set_priority(id, priority)
        push_back(id)
        must_wake = true
    else
        local new_id, is_first = schedule_new(id, due + skew, body)
        set_priority(new_id, priority)
        must_wake = is_first or must_wake
    end
end
if must_wake then wake_up() end
