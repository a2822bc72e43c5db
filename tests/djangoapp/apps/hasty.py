"""Settings that read formrelay's before FORMRELAY is there."""

from hostsite.settings import *

from formrelay.config import get_settings

get_settings()
