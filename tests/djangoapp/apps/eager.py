"""Settings that import the actors."""

from hostsite.settings import *

import formrelay.actors
