"""URLs of the health view and the dashboard.

Use ``path("", include("formrelay.djangoapp.urls"))``.
"""

from __future__ import annotations

from django.urls import path

from .dashboard import dashboard
from .health import health

app_name = "formrelay"
urlpatterns = [
    path("api/v1/workers/health", health, name="health"),
    path("formrelay/", dashboard, name="dashboard"),
    path("formrelay/<path:rest>", dashboard, name="dashboard-page"),
]
