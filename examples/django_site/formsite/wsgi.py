"""The WSGI application: ``formsite.wsgi:application``."""

import os

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "formsite.settings")
# Serves the static files too, so that any WSGI server will do.
application = StaticFilesHandler(get_wsgi_application())
