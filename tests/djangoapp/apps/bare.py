"""Settings of a project without the admin."""

from hostsite.settings import *
from hostsite.settings import INSTALLED_APPS

INSTALLED_APPS = [one for one in INSTALLED_APPS if one != "django.contrib.admin"]
