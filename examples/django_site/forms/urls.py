"""URLs of the forms' pages."""

from django.urls import path

from . import pages

app_name = "forms"
urlpatterns = [
    path("", pages.index, name="index"),
    path("f/<str:form_id>/", pages.form, name="form"),
    path("f/<str:form_id>/autosave/", pages.autosave, name="autosave"),
    path("f/<str:form_id>/thanks/", pages.thanks, name="thanks"),
]
