"""Monitoring: finds problems, and tells them to receivers of alerts (docs/alerts.md, ADR 20).

One path, from top to bottom, at each interval::

    collecting.py    facts: queues, workers, rates, sinks, endpoints, clocks    (input)
    rules.py         facts -> findings.py: problems that exist now              (pure)
    alert_states.py  findings -> events: firing, repeated, resolved             (pure)
    watching.py      events -> entries of the outbox, written with the states
    delivery.py      entries -> receivers.py                                    (output)

``monitor.py`` has the loop of a process: it leads, stands by, or speaks for a store that is down.
"""
