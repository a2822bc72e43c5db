"""The demo: sends real survey answers through real workers and checks every count.

Start reading at ``run.py``. ``site.py`` (the API), ``receiver.py`` (the webhook receiver),
``mail_server.py`` and ``spreadsheet.py`` are programs that ``processes.py`` starts.
"""
