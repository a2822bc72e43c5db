"""The pages on which people fill in forms."""

import json
import logging
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

from django.db import IntegrityError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from formrelay.core.errors import FormrelayError, InvalidJob

from . import entering, questions
from .models import Form

logger = logging.getLogger("forms")


@require_GET
def index(request: HttpRequest) -> HttpResponseBase:
    """List the forms that have a page."""
    forms = [form for form in Form.objects.order_by("title", "id") if form.questions]
    return render(request, "forms/index.html", {"forms": forms})


@require_http_methods(["GET", "POST"])
def form(request: HttpRequest, form_id: str) -> HttpResponseBase:
    """Show a form; ``POST`` submits it."""
    found = _form(form_id)
    if request.method == "POST":
        return _submit(request, found)
    entry = uuid4()
    try:
        entering.viewed(found, entry)
    except FormrelayError as error:  # show the page even if the view is not counted
        logger.warning("view not counted: %s", error)
    return _page(request, found, entry)


@require_POST
def autosave(request: HttpRequest, form_id: str) -> HttpResponseBase:
    """Autosave ``{"entry": "…", "answers": {…}}`` and return the revision."""
    found = _form(form_id)
    try:
        data = json.loads(request.body)
        entry, given = UUID(data["entry"]), data["answers"]
        answers = questions.answers(questions.read(found.questions), given)
    except (ValueError, KeyError, TypeError, AttributeError):
        return JsonResponse({"error": 'expected {"entry": "…", "answers": {…}}'}, status=400)
    try:
        return JsonResponse({"revision": entering.autosave(found, entry, answers)})
    except (entering.AlreadySubmitted, IntegrityError):
        return JsonResponse({"error": "this form was already sent"}, status=409)
    except InvalidJob as error:
        return JsonResponse({"error": str(error)}, status=400)
    except FormrelayError as error:
        logger.error("autosave not enqueued: %s", error)
        return JsonResponse({"error": "not saved: the broker is unavailable"}, status=503)


@require_GET
def thanks(request: HttpRequest, form_id: str) -> HttpResponseBase:
    """Confirm that the form was submitted."""
    return render(request, "forms/thanks.html", {"form": _form(form_id)})


def _submit(request: HttpRequest, form: Form) -> HttpResponseBase:
    asked = questions.read(form.questions)
    answers = questions.answers(asked, request.POST)
    try:
        entry = UUID(request.POST.get("entry", ""))
    except ValueError:
        entry = uuid4()
    if left_out := questions.missing(asked, answers):
        error = f"Please answer {', '.join(f'“{label}”' for label in left_out)}."
        return _page(request, form, entry, answers, error, status=400)
    try:
        entering.submit(form, entry, answers)
    except (entering.AlreadySubmitted, IntegrityError):
        pass  # sent twice
    except InvalidJob as wrong:
        return _page(request, form, entry, answers, f"An answer is invalid: {wrong}", status=400)
    except FormrelayError as error:
        logger.error("submission not enqueued: %s", error)
        entering.reopen(entry)
        error_text = "We could not send your answers. They are still here: please try again."
        return _page(request, form, entry, answers, error_text, status=503)
    return redirect("forms:thanks", form_id=form.id)


def _page(
    request: HttpRequest,
    form: Form,
    entry: UUID,
    answers: Mapping[str, str] | None = None,
    error: str = "",
    *,
    status: int = 200,
) -> HttpResponse:
    answers = answers or {}
    asked = [(one, answers.get(one.name, "")) for one in questions.read(form.questions)]
    context: dict[str, Any] = {"form": form, "entry": entry, "asked": asked, "error": error}
    return render(request, "forms/form.html", context, status=status)


def _form(id: str) -> Form:
    found = get_object_or_404(Form, pk=id)
    if not questions.read(found.questions):
        raise Http404("this form has no page")
    return found
