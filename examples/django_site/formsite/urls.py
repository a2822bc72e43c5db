"""URLs of the admin, the API and the forms."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    # Health view and dashboard; before the API, which shares their prefix.
    path("", include("formrelay.djangoapp.urls")),
    path("api/v1/", include("forms.api_urls")),
    path("", include("forms.urls")),
]
