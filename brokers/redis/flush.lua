-- Drops the waiting and scheduled messages of one queue, some in each call; no message in flight,
-- and no dead letter.
--
-- ARGV: 1 to begin with the messages that are there now, 0 to go on
-- Returns: whether it has begun (an earlier purge is ended first), whether there is more to drop,
--          how many messages it has begun to drop

local has_begun, count = 0, 0
if ARGV[1] == '1' and not anything_purged() then
    has_begun = 1
    for _, keys in ipairs({waiting_lists, delayed_keys}) do
        for _, key in ipairs(keys) do
            if redis.call('exists', key) == 1 then
                redis.call('rename', key, purged(key))
                count = count + count_of(purged(key))
            end
        end
    end
    count = count + redis.call('llen', inbox) + (on_old_inbox('llen') or 0)
    redis.call('unlink', inbox, levels)
    on_old_inbox('unlink')
end
drop_some()
return {has_begun, anything_purged() and 1 or 0, count}
