"""formrelay: the background work of a form platform, as Dramatiq actors.

Nothing is imported here: ``import formrelay`` must stay cheap and must not
read the configuration. Start at :mod:`formrelay.actors` (jobs),
:mod:`formrelay.brokers` (queues) or :mod:`formrelay.config` (settings).
"""

__version__ = "0.1.0"
