"""The broker on Redis: stock Dramatiq's keys, settled and fetched in one Lua call."""
