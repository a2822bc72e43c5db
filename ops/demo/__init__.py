"""The demo: sends real survey answers through real workers and checks every count.

Start reading at ``run.py``. ``site.py`` (the API) and ``receiver.py`` (the webhook receiver) are
programs that ``processes.py`` starts.
"""
