"""The WSGI application: ``formsite.wsgi:application``."""

import os

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "formsite.settings")
# With its style sheets, so that any WSGI server will do; a large site has others for them.
application = StaticFilesHandler(get_wsgi_application())
