"""The Django API: where submissions, partials and payments are saved."""

from .answers import SavedSubmission, SubmissionWebhook
from .client import Api

__all__ = ["Api", "SavedSubmission", "SubmissionWebhook"]
