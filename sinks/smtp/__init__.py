"""E-mail over SMTP.

Writing a message: :mod:`.message` makes the bytes from checked mailboxes (:mod:`.address`) and
headers (:mod:`.headers`), and :mod:`.dkim` signs them.
"""
