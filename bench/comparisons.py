"""The comparisons that scripts/bench can make."""

from __future__ import annotations

from started_comparisons import TUNED, Comparison, Contender, started_comparisons

_THREADS = 8
_FAST = {"count": 40_000, "threads": _THREADS}
_MIDDLE = {"count": 15_000, "threads": _THREADS}
_SLOW = {"count": 8_000, "threads": _THREADS}
_SENDS = {"count": 8_000, "threads": 1}


def comparisons() -> list[Comparison]:
    """All comparisons, in the order of docs/benchmarks.md."""
    return [
        *started_comparisons(),
        *_drains(),
        *_enqueues(),
        *_sends(),
        *_pickups(),
        *_delays(),
        *_webhooks(),
        *_hanging_webhooks(),
        *_events(),
        *_event_resources(),
        *_submissions(),
        *_emails(),
        *_depths(),
    ]


def _drains() -> list[Comparison]:
    return [
        Comparison(
            "drain-redis",
            "no-op drain on Redis, one process, 8 threads, 300 bytes: messages/s",
            "drain",
            (
                Contender("formrelay", "redis-ours", _FAST),
                Contender("stock, default settings", "redis-stock", _SLOW, wanted=6),
                Contender("stock, prefetch 1000", "redis-stock", _MIDDLE, TUNED, wanted=3),
            ),
        ),
        Comparison(
            "shared-redis",
            "no-op drain on Redis by one and by two processes, 8 threads each: messages/s",
            "shared",
            (
                Contender("formrelay, 2 processes", "redis-ours", {**_FAST, "processes": 2}),
                Contender(
                    "formrelay, 1 process", "redis-ours", {**_FAST, "processes": 1}, wanted=1.5
                ),
                Contender("stock, 2 processes", "redis-stock", {**_MIDDLE, "processes": 2}, TUNED),
                Contender("stock, 1 process", "redis-stock", {**_MIDDLE, "processes": 1}, TUNED),
            ),
        ),
        Comparison(
            "drain-rabbitmq",
            "no-op drain on RabbitMQ (classic queues), one process, 8 threads: messages/s",
            "drain",
            (
                Contender("formrelay", "rabbitmq-ours", _MIDDLE),
                Contender("stock, default settings", "rabbitmq-stock", _SLOW, wanted=2.5),
                Contender("stock, prefetch 1000", "rabbitmq-stock", _MIDDLE, TUNED, wanted=1.3),
                Contender("formrelay, quorum queue", "rabbitmq-quorum", _MIDDLE),
            ),
        ),
    ]


def _enqueues() -> list[Comparison]:
    return [
        Comparison(
            "enqueue-redis",
            "enqueue_many on Redis, compared with a loop of send: messages/s",
            "enqueue",
            (
                Contender("formrelay", "redis-ours", {"count": 50_000}),
                Contender("stock", "redis-stock", {"count": 10_000}, wanted=5),
            ),
        ),
        Comparison(
            "enqueue-rabbitmq",
            "enqueue_many on RabbitMQ with confirms, compared with a loop of send: messages/s",
            "enqueue",
            (
                Contender("formrelay", "rabbitmq-ours", {"count": 20_000}),
                Contender("stock, with confirms", "rabbitmq-confirmed", {"count": 3_000}, wanted=5),
                Contender("formrelay, quorum queue", "rabbitmq-quorum", {"count": 20_000}),
            ),
        ),
    ]


def _sends() -> list[Comparison]:
    """Sends of a web server: each thread waits for RabbitMQ's confirm of its message."""
    return [
        Comparison(
            "send-rabbitmq",
            "send() on RabbitMQ (quorum queue), each with its confirm: messages/s",
            "send",
            (
                Contender("formrelay, 8 threads", "rabbitmq-quorum", {**_SENDS, "threads": 8}),
                Contender("formrelay, 1 thread", "rabbitmq-quorum", _SENDS, wanted=4),
                Contender("formrelay, 32 threads", "rabbitmq-quorum", {**_SENDS, "threads": 32}),
                Contender("stock, 8 threads", "rabbitmq-confirmed", {**_SENDS, "threads": 8}),
            ),
        )
    ]


def _pickups() -> list[Comparison]:
    return [
        Comparison(
            f"pickup-{broker}",
            f"pick-up of a new job by an idle worker on {title}: median ms",
            "pickup",
            (
                Contender("formrelay", f"{broker}-ours", {"count": 60}),
                Contender("stock", f"{broker}-stock", {"count": 60}),
            ),
            figure="p50_ms",
        )
        for broker, title in (("redis", "Redis"), ("rabbitmq", "RabbitMQ"))
    ]


def _delays() -> list[Comparison]:
    far = {"far": 50_000, "near": 100, "delay_ms": 5_000}
    title = "100 messages due in 5 s behind {} due in one hour, {}: worst lateness in ms"
    return [
        Comparison(
            "delayed-redis",
            title.format("50,000", "Redis"),
            "delayed",
            (Contender("formrelay", "redis-ours", far), Contender("stock", "redis-stock", far)),
            figure="worst_late_ms",
        ),
        Comparison(
            "many-delayed-redis",
            title.format("500,000", "Redis"),
            "delayed",
            (Contender("formrelay", "redis-ours", {**far, "far": 500_000}),),
            figure="worst_late_ms",
        ),
        Comparison(
            "delayed-rabbitmq",
            title.format("50,000", "RabbitMQ"),
            "delayed",
            (
                Contender("formrelay", "rabbitmq-ours", far),
                Contender("stock", "rabbitmq-stock", far),
            ),
            figure="worst_late_ms",
        ),
    ]


_HOOKS = {"threads": 10, "endpoints": 100}


def _webhooks() -> list[Comparison]:
    slow = {"threads": 200, "endpoints": 100, "pause_ms": 200, "count": 5_000}
    return [
        Comparison(
            "webhooks",
            "signed webhooks to a local receiver, 100 endpoints, one process, 10 threads, Redis: "
            "deliveries/s",
            "deliver",
            (
                Contender("formrelay", "redis-ours", {**_HOOKS, "count": 15_000}),
                Contender(
                    "stock with requests", "redis-stock", {**_HOOKS, "count": 2_500}, wanted=6
                ),
            ),
        ),
        Comparison(
            "webhooks-slow",
            "webhooks to receivers that answer after 200 ms, concurrency 200, one process: "
            "deliveries/s",
            "deliver",
            (
                Contender("formrelay", "redis-ours", slow),
                Contender("theoretical maximum", "arithmetic", slow, wanted=0.9),
            ),
        ),
    ]


def _hanging_webhooks() -> list[Comparison]:
    full = {**_HOOKS, "count": 20_000}
    steady = {**_HOOKS, "seconds": 25, "rate": 1_000}
    return [
        Comparison(
            "webhooks-hanging",
            "webhooks from a full queue while 5 of 100 endpoints never answer, concurrency 10: "
            "deliveries/s to the other endpoints",
            "deliver",
            (
                Contender("5 endpoints hang", "redis-ours", {**full, "hanging": 5}),
                Contender("no endpoint hangs", "redis-ours", full, wanted=0.8),
            ),
        ),
        Comparison(
            "webhooks-late",
            "1,000 webhooks/s for 25 s while 5 of 100 endpoints never answer, concurrency 10: p99 "
            "in ms from send() to delivery at the other endpoints (target: below 2,000)",
            "latency",
            (
                Contender("5 endpoints hang", "redis-ours", {**steady, "hanging": 5}),
                Contender("no endpoint hangs", "redis-ours", {**steady, "hanging": 0}),
            ),
            figure="p99_ms",
        ),
    ]


_EVENTS = {"count": 200_000, "threads": _THREADS}


def _events() -> list[Comparison]:
    single, lists = {**_EVENTS, "many": 1}, {**_EVENTS, "many": 100}
    return [
        Comparison(
            "events",
            "events into ClickHouse, 1 event per message, one process, Redis: events/s",
            "record",
            (
                Contender("formrelay", "ours", single),
                Contender("without a queue", "limit", single, wanted=0.75),
                Contender("stock, one insert per event", "stock", {**single, "count": 1_000}),
            ),
        ),
        Comparison(
            "events-lists",
            "events into ClickHouse, 100 events per message, one process, Redis: events/s",
            "record",
            (
                Contender("formrelay, 100 events per message", "ours", lists),
                Contender("formrelay, 1 event per message", "ours", single, wanted=2),
                Contender("without a queue", "limit", lists),
            ),
        ),
    ]


def _event_resources() -> list[Comparison]:
    single = {**_EVENTS, "many": 1}
    return [
        Comparison(
            "events-memory",
            "memory growth of one process that records events: MB",
            "record",
            (
                Contender("2,000,000 events", "ours", {**single, "count": 2_000_000}),
                Contender("200,000 events", "ours", single),
            ),
            figure="grew_mb",
        ),
        Comparison(
            "events-away",
            "CPU of an event worker for 30 s while ClickHouse is unavailable and 100,000 events "
            "wait: % of one core",
            "unavailable",
            (
                Contender(
                    "formrelay", "ours", {"count": 100_000, "threads": _THREADS, "seconds": 30}
                ),
            ),
            figure="cpu_percent",
        ),
    ]


def _submissions() -> list[Comparison]:
    saved = {"count": 2_500}
    found = [
        Comparison(
            name,
            f"submissions into the Django site ({site}) on the same two cores, one worker process, "
            "Redis: submissions/s",
            "submit",
            (
                Contender("formrelay", "ours", {**saved, "server": server}),
                Contender("wrk", "limit", {**saved, "server": server}, wanted=0.85),
            ),
        )
        for name, server, site in (
            ("submissions", "gunicorn", "gunicorn, two processes"),
            ("submissions-waitress", "waitress", "waitress, one process"),
        )
    ]
    autosaves = {"count": 10_000, "sessions": 500, "threads": _THREADS}
    partials = Comparison(
        "submissions-partials",
        "10,000 waiting autosaves of 500 sessions: number of API calls (target: at most 600)",
        "autosave",
        (Contender("formrelay", "ours", autosaves),),
        figure="calls",
    )
    return [*found, partials]


def _emails() -> list[Comparison]:
    near = {"count": 1_000, "connections": 4}
    return [
        Comparison(
            name,
            f"1,000 e-mails into Postfix {where} with STARTTLS and a login, {connections} "
            "connections: e-mails/s",
            "emails",
            (
                Contender("formrelay", "ours", sent),
                Contender("a connection each (smtplib)", "smtplib", sent, wanted=3),
                Contender("nodemailer, pooled", "nodemailer", sent, wanted=1),
            ),
        )
        for name, where, connections, sent in (
            ("emails", "on the same two cores", 4, near),
            ("emails-away", "10 ms away", 10, {**near, "connections": 10, "distance": 0.005}),
        )
    ]


def _depths() -> list[Comparison]:
    drained = {**_FAST, "count": 20_000}
    return [
        Comparison(
            "depth-redis",
            "drain of 20,000 messages while more messages wait, Redis: messages/s",
            "drain",
            (
                Contender("1,000 more wait", "redis-ours", {**drained, "behind": 1_000}),
                Contender("1,000,000 more wait", "redis-ours", {**drained, "behind": 1_000_000}),
            ),
        )
    ]
