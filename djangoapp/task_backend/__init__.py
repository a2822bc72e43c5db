"""A backend for Django's Tasks API: ``@task`` functions as jobs on formrelay's queues.

The steps of a task, and the files that implement them::

    declare   task.py: options of a task; options.py: options of a backend
    enqueue   backend.py, with message.py; ../commit.py sends
    find      actors.py: one Dramatiq actor for each task; discovery.py for workers
    run       running.py, in a worker thread; coroutine.py for ``async`` tasks
    end       lifecycle.py: signals and stored results (results.py)

Needs Django 6, or the package ``django-tasks`` with an older Django. Import it from
:mod:`formrelay.djangoapp.tasks`.
"""
