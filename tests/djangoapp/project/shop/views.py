"""A request that writes and sends; with ATOMIC_REQUESTS both or neither."""

from django.http import HttpRequest, HttpResponse

from formrelay.djangoapp import enqueue
from shop.models import Note


def submit(request: HttpRequest) -> HttpResponse:
    """`?then=fail` raises behind it, `?then=refuse` sends what can never be sent."""
    then = request.GET.get("then")
    Note.objects.create(text="submitted")
    answers = {} if then != "refuse" else []
    payload = {
        "submissionId": request.GET["id"],
        "formId": "form-1",
        "status": "completed",
        "answers": answers,
        "submittedAt": "2026-01-31T09:30:00Z",
    }
    enqueue("save_submission", payload)
    if then == "fail":
        raise RuntimeError("behind the enqueue")
    return HttpResponse("sent", status=201)
