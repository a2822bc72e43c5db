"""``email.send``: e-mails over SMTP, with a result for each recipient.

- ``schema.py``: the job. ``actor.py``: its actor, which imports the rest at its first job.
- ``deliver.py``: sends an e-mail to the recipients that do not have it yet. ``effects.py`` applies
  the server's replies to limits and suppressions, ``suppress.py`` suppresses addresses.
- ``compose.py``: makes the e-mail; ``render.py`` its body from a template of ``templates/``,
  ``attachments.py`` reads its attachments.
- ``events.py``: the analytics events. ``progress.py``: the progress for commands.
- ``report_handler.py``: handles bounces and complaints.
- ``access_token.py``: the OAuth token of the login. ``shares.py``: the connections of all workers.
- ``checks.py``: finds wrong settings, templates and missing packages.
- ``resources.py``: makes what all e-mails of a process share, from the settings.
"""

from __future__ import annotations

from .actor import send_email

__all__ = ["send_email"]
