-- Removes one death from the count of each message, because the worker that counted as dead is
-- alive.
--
-- ARGV: ids

if any_suspects then
    for _, id in ipairs(ARGV) do
        local deaths = tonumber(redis.call('hget', suspects, id) or 0)
        if deaths > 1 then
            redis.call('hincrby', suspects, id, -1)
        elseif deaths == 1 then
            redis.call('hdel', suspects, id)
        end
    end
end
