"""formrelay's views, a view that sends a job, and the admin if it is installed."""

from django.conf import settings
from django.contrib import admin
from django.urls import include, path
from shop.views import submit

urlpatterns = [path("submit/", submit), path("", include("formrelay.djangoapp.urls"))]
if "django.contrib.admin" in settings.INSTALLED_APPS:
    urlpatterns.append(path("admin/", admin.site.urls))
