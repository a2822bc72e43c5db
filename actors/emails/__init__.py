"""``email.send``: e-mails over SMTP, with a result for each recipient.

- ``schema.py``: the job. ``actor.py``: its actor, which imports the rest at its first job.
- ``deliver.py``: sends an e-mail to those recipients that do not have it yet.
- ``compose.py``: makes the e-mail; ``render.py`` its body from a template of ``templates/``,
  ``attachments.py`` reads its attachments.
- ``events.py``: the analytics events.
- ``resources.py``: makes what all e-mails of a process share, from the settings.
"""

from __future__ import annotations

from .actor import send_email

__all__ = ["send_email"]
