-- Takes back one death each that was counted against messages: the worker that was thought dead
-- lives.
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
