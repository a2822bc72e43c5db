"""Jobs that periodiq sends at the times of a crontab."""

import asyncio

import dramatiq
from periodiq import PeriodiqMiddleware, cron

from formrelay.brokers import get_broker

broker = get_broker()
broker.add_middleware(PeriodiqMiddleware(skip_delay=30))


@dramatiq.actor(broker=broker, queue_name="clock", periodic=cron("* * * * *"))
def tick(name="tick"):
    print(f"{name} ran", flush=True)


@dramatiq.actor(broker=broker, queue_name="clock", periodic=cron("* * * * *"), in_flight=10)
async def tick_async(name="tick_async"):
    await asyncio.sleep(0.01)
    print(f"{name} ran", flush=True)
