"""Mailboxes that receive reports about e-mails: bounces and complaints.

- ``reports.py``: reads a message as a report. ``delivery_status.py`` (RFC 3464) and ``feedback.py``
  (RFC 5965) read what the standards define, ``free_text.py`` the bounces of older servers and the
  automatic replies. ``parts.py`` takes messages apart.
- ``files.py``: maildir and mbox. ``imap.py``: IMAP.
"""
