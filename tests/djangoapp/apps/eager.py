"""Settings that import formrelay's actors."""

from hostsite.settings import *

import formrelay.actors
