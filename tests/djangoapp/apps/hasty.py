"""Settings that read formrelay's settings before they define FORMRELAY."""

from hostsite.settings import *

from formrelay.config import get_settings

get_settings()
