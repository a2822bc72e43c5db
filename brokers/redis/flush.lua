-- Deletes the waiting and scheduled messages of one queue, a chunk in each call. Messages in flight
-- and dead letters are kept.
--
-- ARGV: 1 to start a purge of the messages that exist now, 0 to continue it
-- Returns: whether it was started (an unfinished purge is continued first), whether to call again,
--          number of messages that the started purge deletes

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
    redis.call('unlink', inbox, used_priorities)
    on_old_inbox('unlink')
end
drop_chunk()
return {has_begun, anything_purged() and 1 or 0, count}
