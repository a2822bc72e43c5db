"""The client of the Django API, which saves submissions, partials and payments."""

from .answers import SavedSubmission, SubmissionWebhook
from .client import Api

__all__ = ["Api", "SavedSubmission", "SubmissionWebhook"]
