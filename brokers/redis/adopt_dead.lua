-- Adopts a chunk of the dead letters of stock Dramatiq or an older formrelay.
--
-- Returns: whether to call again (1 or 0)

adopt_dead()
return redis.call('exists', stock_dead)
