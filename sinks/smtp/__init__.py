"""E-mail over SMTP.

Writing: :mod:`.message` makes the bytes of an e-mail from checked mailboxes (:mod:`.address`) and
headers (:mod:`.headers`), and :mod:`.dkim` signs them.

Sending: :mod:`.pool` keeps the connections of an account (:mod:`.account`), :mod:`.session` opens
one (:mod:`.connection`) and logs in (:mod:`.auth`), :mod:`.transaction` sends a message over it,
and :mod:`.replies` says what the server's replies mean. :mod:`.probe` sends a test e-mail step by
step.
"""
