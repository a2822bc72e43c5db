"""A view that writes to the database and sends a job; ATOMIC_REQUESTS makes it all or nothing."""

from django.http import HttpRequest, HttpResponse

from formrelay.djangoapp import enqueue
from shop.models import Note


def submit(request: HttpRequest) -> HttpResponse:
    """Write and send. `?then=fail` raises afterwards, `?then=refuse` sends an invalid job."""
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
