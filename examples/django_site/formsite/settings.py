"""Settings from the environment: DATABASE_URL, SECRET_KEY, DEBUG, ALLOWED_HOSTS, API_TOKEN."""

import os
from pathlib import Path

from .database import from_url

BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG = os.environ.get("SITE_DEBUG", "").lower() in ("1", "true", "yes")
# Without SECRET_KEY, sessions end at each restart, so set it in production.
SECRET_KEY = os.environ.get("SECRET_KEY") or os.urandom(32).hex()
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]").split(",")
#: A token that the API accepts, in addition to the tokens created in the admin.
API_TOKEN = os.environ.get("API_TOKEN", "")

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "formrelay.djangoapp",
    "forms",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
ROOT_URLCONF = "formsite.urls"
WSGI_APPLICATION = "formsite.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DATABASES = {
    "default": from_url(os.environ.get("DATABASE_URL", f"sqlite:///{BASE_DIR / 'site.sqlite3'}"))
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "/static/"
LOGIN_URL = "admin:login"
#: Enough for long answers, too small for uploads.
DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * 1024 * 1024
