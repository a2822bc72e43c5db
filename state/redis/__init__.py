"""Redis: the client, and what is kept with it."""
