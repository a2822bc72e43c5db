"""The admin."""

from django.contrib import admin, messages
from django.http import HttpRequest

from .models import ApiToken, Entry, Form, Partial, Submission, WebhookEndpoint


class WebhookInline(admin.TabularInline):
    model = WebhookEndpoint
    extra = 0


@admin.register(Form)
class FormAdmin(admin.ModelAdmin):
    list_display = ("id", "title")
    search_fields = ("id", "title")
    inlines = (WebhookInline,)


@admin.register(Submission)
class SubmissionAdmin(admin.ModelAdmin):
    list_display = ("id", "form", "status", "submitted_at")
    list_filter = ("status", "form")
    search_fields = ("id",)
    readonly_fields = ("payment_created", "payment_event", "created_at")


@admin.register(Partial)
class PartialAdmin(admin.ModelAdmin):
    list_display = ("id", "form", "revision", "updated_at")
    list_filter = ("form",)


@admin.register(Entry)
class EntryAdmin(admin.ModelAdmin):
    list_display = ("id", "form", "revision", "began_at", "submitted_at")
    list_filter = ("form",)


@admin.register(ApiToken)
class ApiTokenAdmin(admin.ModelAdmin):
    list_display = ("name", "is_active", "created_at")
    fields = ("name", "is_active")

    def save_model(self, request: HttpRequest, obj: ApiToken, form: object, change: bool) -> None:
        if not change:
            made, token = ApiToken.make(obj.name)
            obj.digest = made.digest
            messages.success(request, f"New token, shown only once: {token}")
        super().save_model(request, obj, form, change)  # type: ignore[arg-type]
