"""Tests of a project that keep jobs instead of sending them."""

from __future__ import annotations

import unittest
from contextlib import suppress
from typing import Any

from django.test import TransactionTestCase, override_settings
from django.test.runner import DiscoverRunner
from shop.actors import write_note

from formrelay.actors import deliver_webhook, save_submission
from formrelay.core.errors import InvalidJob
from formrelay.djangoapp import enqueue
from formrelay.djangoapp.outbox import kept_jobs
from tests.djangoapp.programs.enqueueing import job, waiting

found: list[Any] = []


class Committing(TransactionTestCase):
    """Commits, as tests of a project do that need real transactions."""

    def test_committing(self) -> None:
        """Send jobs in every way, and an invalid job."""
        self.client.get("/submit/?id=1")
        write_note.send("note")
        save_submission.send(payload=job(2))
        with suppress(InvalidJob):
            deliver_webhook.send(payload={})
        found.append([message.actor_name for message in kept_jobs])
        kept_jobs.clear()
        with override_settings(FORMRELAY_KEEP_JOBS=False), suppress(Exception):
            enqueue("save_submission", job(3))
        found.append([len(kept_jobs)])


def run_tests() -> list[Any]:
    """Run the test case; returns what it kept, and whether it succeeded."""
    runner = DiscoverRunner(verbosity=0)
    runner.setup_test_environment()
    databases = runner.setup_databases()
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Committing).run(result)
    runner.teardown_databases(databases)
    return [*found, [str(error) for _, error in (*result.errors, *result.failures)]]


def run_tests_and_count() -> list[Any]:
    """Run the test case; returns also the number of jobs on the broker."""
    return [*run_tests(), waiting(), waiting("notes")]
