"""Sends jobs from async views."""

from __future__ import annotations

from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, override_settings
from django.urls import path
from shop.models import Note

from formrelay.brokers import get_broker
from formrelay.core.errors import InvalidJob
from formrelay.djangoapp import aenqueue, enqueue
from tests.djangoapp.programs.enqueueing import job


async def sends(request: HttpRequest) -> HttpResponse:
    message = await aenqueue("save_submission", job(1), {"formId": "f"})
    return HttpResponse(message.message_id)


async def sends_invalid(request: HttpRequest) -> HttpResponse:
    try:
        await aenqueue("save_submission", {})
    except InvalidJob as error:
        return HttpResponse(type(error).__name__)
    return HttpResponse("sent")


async def blocks(request: HttpRequest) -> HttpResponse:
    found = []
    for options in ({}, {"on_commit": False}):
        try:
            enqueue("save_submission", job(2), **options)
        except SynchronousOnlyOperation as error:
            found.append(str(error))
    return HttpResponse("|".join(found))


def _save_and_fail() -> None:
    with transaction.atomic():
        Note.objects.create(text="async")
        enqueue("save_submission", job(3))
        raise RuntimeError


async def rolls_back(request: HttpRequest) -> HttpResponse:
    try:
        await sync_to_async(_save_and_fail)()
    except RuntimeError:
        return HttpResponse("rolled back")
    return HttpResponse("committed")


# Django refuses ATOMIC_REQUESTS for async views.
urlpatterns = [
    path(view.__name__, transaction.non_atomic_requests(view))
    for view in (sends, sends_invalid, blocks, rolls_back)
]


def visit() -> list[Any]:
    """Text of each view's answer, and the number of waiting jobs after it."""
    found = []
    with override_settings(ROOT_URLCONF=__name__):
        for view in (sends, sends_invalid, blocks, rolls_back):
            answer = async_to_sync(AsyncClient().get)(f"/{view.__name__}")
            waiting = get_broker().counts("submissions").waiting
            found.append([answer.content.decode(), waiting])
    return found
