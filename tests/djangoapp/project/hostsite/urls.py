"""formrelay's views, the admin, where the project has it, and a view that sends a job."""

from django.conf import settings
from django.contrib import admin
from django.urls import include, path
from shop.views import submit

urlpatterns = [path("submit/", submit), path("", include("formrelay.djangoapp.urls"))]
if "django.contrib.admin" in settings.INSTALLED_APPS:
    urlpatterns.append(path("admin/", admin.site.urls))
