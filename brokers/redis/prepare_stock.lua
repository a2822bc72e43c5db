-- Prepares a queue for to_stock.lua: moves plain jobs to the waiting list, and adopts the ids that
-- an older formrelay left.
--
-- Returns: whether to call again (1 or 0)

for _, job in ipairs(take_plain_jobs(CHUNK)) do
    push_back(add_waiting('inbox-' .. next_number(), job))
end
local is_older = redis.call('type', stock_delayed).ok == 'zset'
if is_older then adopt_delayed() end
adopt_dead()
local left = redis.call('exists', inbox, stock_dead) + (on_old_inbox('exists') or 0)
return (is_older or left > 0) and 1 or 0
