-- Removes messages that are done and that another worker has taken over, so that they do not run
-- again. A message that was enqueued under the same id since then has another body, and is kept.
--
-- ARGV: two for each message: id, body

for i = 1, #ARGV, 2 do
    if redis.call('hget', bodies, ARGV[i]) == ARGV[i + 1] then forget({ARGV[i]}, 1, 1) end
end
