"""What a WSGI server starts: ``formsite.wsgi:application``."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "formsite.settings")
application = get_wsgi_application()
