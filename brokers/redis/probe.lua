-- Checks the user's rights: runs every command that sending, fetching and settling need on the keys
-- of a queue. Changes no data: removals use an unknown member, and writes are undone in this call.
--
-- KEYS: keys of the queue, then: in flight, worker queues, worker name
-- ARGV: a member that no key contains
-- Returns: command, key and error of each refused command

local in_flight, worker_queues, worker_name = KEYS[15], KEYS[16], KEYS[17]
local member = ARGV[1]
local highest = waiting .. '.p9'
local refused = {}

local function try(command, key, ...)
    local answer = redis.pcall(command, key, ...)
    if type(answer) ~= 'table' or not answer.err then return true end
    refused[#refused + 1] = {command, key, answer.err}
    return false
end

local function try_undone(write, undo)
    if try(unpack(write)) then redis.pcall(unpack(undo)) end
end

-- Must be the first write, since a server out of memory refuses only the first write of a script.
-- The key expires.
if redis.call('exists', worker_name) == 0 and try('set', worker_name, member, 'px', 1000) then
    -- RPUSH on a list could be undone only with RPOP, which no worker needs. On a string it fails
    -- with WRONGTYPE, unless the right is missing.
    local answer = redis.pcall('rpush', worker_name, member)
    if not string.find(answer.err, 'WRONGTYPE') then
        refused[#refused + 1] = {'rpush', waiting, answer.err}
    end
    try('del', worker_name)
end

-- Checks removals first, so that every write can be undone.
for _, hash in ipairs({bodies, scheduled_bodies, dead_bodies, suspects, priorities}) do
    try('hget', hash, member)
    try('hmget', hash, member)
    try('hexists', hash, member)
    if try('hdel', hash, member) then
        try_undone({'hset', hash, member, ''}, {'hdel', hash, member})
        try_undone({'hsetnx', hash, member, ''}, {'hdel', hash, member})
        try_undone({'hincrby', hash, member, 1}, {'hdel', hash, member})
    end
end
try('hlen', bodies)

for _, set in ipairs({wake, scheduled, dead, used_priorities, heartbeats}) do
    try('zcard', set)
    try('zscore', set, member)
    try('zrange', set, 0, 0)
    try('zrevrange', set, 0, 0)
    try('zrangebyscore', set, 0, 0, 'limit', 0, 1)
    try('zpopmin', set, 0)
    if try('zrem', set, member) then
        try_undone({'zadd', set, 0, member}, {'zrem', set, member})
    end
end

-- Keys that are adopted from stock Dramatiq and from older versions of formrelay.
try('type', stock_delayed)
try('lpop', stock_delayed, 0)
try('zpopmin', stock_dead, 0)

for _, set in ipairs({in_flight, worker_queues}) do
    try('sismember', set, member)
    try('smismember', set, member)
    try('scard', set)
    if try('srem', set, member) then
        try_undone({'sadd', set, member}, {'srem', set, member})
    end
end
try('smembers', in_flight)

for _, list in ipairs({waiting, highest, inbox}) do
    try('llen', list)
    try('lindex', list, 0)
    if try('lpop', list, 0) then
        try_undone({'lpush', list, member}, {'lpop', list, 1})
    end
end
try('exists', paused)
if redis.call('exists', sequence) == 1 then
    try('incr', sequence)
elseif try('set', sequence, 1, 'nx') then
    try('incr', sequence)
    redis.call('del', sequence)
end
return refused
