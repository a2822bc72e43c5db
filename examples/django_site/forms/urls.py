"""Pages for people come with formrelay.djangoapp, which sends what they enter."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
