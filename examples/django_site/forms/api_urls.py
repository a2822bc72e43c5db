"""URLs under ``/api/v1/``."""

from django.urls import path

from . import api

urlpatterns = [
    path("submissions/", api.submissions),
    path("submissions/<str:id>/", api.submission),
    path("submissions/<str:id>/payment/", api.payment),
    path("partials/<str:id>/", api.partial),
    path("forms/<str:form_id>/webhooks/", api.webhooks),
]
