-- Removes messages whose work is done although another worker has taken them over, so that they
-- are not run again. A message that was enqueued under the same id since then has another body,
-- and stays.
--
-- ARGV: two for each: id, body

for i = 1, #ARGV, 2 do
    if redis.call('hget', bodies, ARGV[i]) == ARGV[i + 1] then forget({ARGV[i]}, 1, 1) end
end
