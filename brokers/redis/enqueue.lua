-- Writes messages to one queue, all or none.
--
-- ARGV: the sender's now (unix ms), '1' if this call repeats one whose answer was lost (else '0'),
--       then four for each message:
--       id, due (unix ms, '' for at once), priority ('' for none), body

local skew = now - tonumber(ARGV[1])
local awake = false

-- What the lost call has written is not written again. Looked up before anything is written: one
-- call may hold a message twice. Another body under the same id is another message.
local known = {}
local function is_known(id, body)
    return redis.call('hget', bodies, id) == body
        or redis.call('hget', scheduled_bodies, id) == body
        or redis.call('hget', dead_bodies, id) == body
end
if ARGV[2] == '1' then
    next_number() -- WAIT counts from the last write of its connection, so there must be one
    for i = 3, #ARGV, 4 do known[i] = is_known(ARGV[i], ARGV[i + 3]) end
end

for i = 3, #ARGV, 4 do
    local id, due, level, body = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
    if known[i] then
        awake = awake or due == ''
    elseif due == '' then
        id = wait_under(id, body)
        set_priority(id, level)
        push_back(id)
        awake = true
    else
        local new_id, is_first = schedule_new(id, due + skew, body)
        set_priority(new_id, level)
        awake = is_first or awake
    end
end
if awake then wake_up() end
