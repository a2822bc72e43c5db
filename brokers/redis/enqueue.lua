-- Writes messages to one queue, all or none.
--
-- ARGV: the sender's now (unix ms), then four for each message:
--       id, due (unix ms, '' for at once), priority ('' for none), body

local skew = now - tonumber(ARGV[1])
local awake = false
for i = 2, #ARGV, 4 do
    local id, due, level, body = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
    if due == '' then
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
