"""The client of the Django API, which saves submissions, partials and payments."""

from .client import Api
from .responses import SavedSubmission, SubmissionWebhook

__all__ = ["Api", "SavedSubmission", "SubmissionWebhook"]
