"""Forms, submissions, partials, webhook endpoints and API tokens."""

import hashlib
import secrets
import uuid

from django.db import models


class Form(models.Model):
    """A form, created at the first request that names it."""

    id = models.CharField(primary_key=True, max_length=200)
    title = models.CharField(max_length=200, blank=True)
    #: Questions on the page. The API accepts any answers.
    questions = models.JSONField(
        default=list,
        blank=True,
        help_text='["name", {"name": "size", "label": "Which size?", "options": ["S", "M"]}, '
        '{"name": "story", "kind": "textarea", "required": true}]',
    )

    def __str__(self) -> str:
        return self.title or self.id


class WebhookEndpoint(models.Model):
    """A webhook endpoint for the completed submissions of a form."""

    class Method(models.TextChoices):
        POST = "POST"
        PUT = "PUT"

    form = models.ForeignKey(Form, on_delete=models.CASCADE, related_name="webhooks")
    endpoint_id = models.CharField(max_length=200)
    url = models.CharField(max_length=2000)
    secret = models.CharField(max_length=200)
    method = models.CharField(max_length=4, choices=Method, default=Method.POST)
    headers = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ("id",)
        constraints = (
            models.UniqueConstraint(fields=("form", "endpoint_id"), name="one_endpoint_an_id"),
        )

    def __str__(self) -> str:
        return f"{self.form_id}: {self.endpoint_id}"


class Submission(models.Model):
    """A filled-in form."""

    class Status(models.TextChoices):
        DRAFT = "draft"
        PENDING_PAYMENT = "pending_payment"
        COMPLETED = "completed"
        PAYMENT_FAILED = "payment_failed"
        REFUNDED = "refunded"

    id = models.CharField(primary_key=True, max_length=255)
    form = models.ForeignKey(Form, on_delete=models.PROTECT, related_name="submissions")
    status = models.CharField(max_length=20, choices=Status)
    answers = models.JSONField()
    submitted_at = models.DateTimeField()
    #: Hash of the content: the same id with other content is an error of the client.
    digest = models.CharField(max_length=64, editable=False)
    #: Unix time at which the payment provider created the event that set the status; 0 for none.
    payment_created = models.BigIntegerField(default=0)
    payment_event = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = (models.Index(fields=("form", "-submitted_at")),)

    def __str__(self) -> str:
        return self.id


class Partial(models.Model):
    """The newest revision of a partially filled-in form."""

    id = models.CharField(primary_key=True, max_length=255)
    form = models.ForeignKey(Form, on_delete=models.CASCADE, related_name="partials")
    session_id = models.CharField(max_length=200)
    revision = models.BigIntegerField()
    answers = models.JSONField()
    updated_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.id} (revision {self.revision})"


class Entry(models.Model):
    """A person's answers on the page of a form, from the first autosave on."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    form = models.ForeignKey(Form, on_delete=models.CASCADE, related_name="entries")
    #: Revision of the last autosave, counted here so that two windows never use the same number.
    revision = models.BigIntegerField(default=0)
    submitted_at = models.DateTimeField(null=True)
    began_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name_plural = "entries"

    def __str__(self) -> str:
        return str(self.id)


class ApiToken(models.Model):
    """An API token. The token itself is shown once and not stored."""

    name = models.CharField(max_length=200)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name

    @classmethod
    def make(cls, name: str) -> tuple["ApiToken", str]:
        """Create a record, and return it with the token."""
        token = secrets.token_urlsafe(32)
        return cls(name=name, digest=cls.digest_of(token)), token

    @staticmethod
    def digest_of(token: str) -> str:
        return hashlib.sha256(token.encode()).hexdigest()
