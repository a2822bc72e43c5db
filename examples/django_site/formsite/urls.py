"""The admin, the API, and the forms for people."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    # The health of the workers, and the queues for the staff; before the API, whose prefix it has.
    path("", include("formrelay.djangoapp.urls")),
    path("api/v1/", include("forms.api_urls")),
    path("", include("forms.urls")),
]
