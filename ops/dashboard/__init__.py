"""The dashboard: a WSGI application that shows queues, jobs and workers, and acts on them.

``formrelay dashboard`` serves it, and :mod:`formrelay.djangoapp` mounts it. The files::

    app.py        the application: routes, access, security headers, errors
    view.py       a route, and what its page gets: request, user, broker; rendering and redirects
    pages/        a module for each page
    templates/    a template for each page; base.html and macros.html are shared
    static/       dashboard.css, pages.css, dashboard.js

    access.py            who may do what: login by token, or a host program's own login
    sessions.py          the signed session cookie
    failed_logins.py     limits logins after wrong tokens
    origins.py           refuses a POST from another site
    rendering.py         Jinja2: filters and globals of the templates
    assets.py            static files under URLs with a hash

    cached.py            a value that all requests share for some seconds
    queue_list.py        the names of the queues
    figures.py           rates, durations and sparklines (sparklines.py) of the queues
    external_systems.py  webhook endpoints and Google connections, for the overview
    sink_states.py       sinks, for the overview: settings, breakers of workers, last attempts
    search.py            searches the messages of a queue
    dead_query.py        a filter of dead letters, in the fields of a form or a URL; its pages
    dead_forms.py        forms that replay or delete dead letters by their ids
    endpoint_list.py     webhook endpoints with their success rates
    webhook_tests.py     test deliveries to an endpoint
    tasks.py             replays and deletes many dead letters in threads

``formrelay dashboard`` is ``ops/cli/dashboard.py``, which calls :func:`make_app` and serves the
application. A request then goes through ``Dashboard.__call__`` in ``app.py`` (prefix, host, route,
origin, login, role), the function of its route in ``pages/``, and ``View.render`` with a template.

How to add a page
=================

1. **Routes.** Write ``pages/webhooks.py`` with functions that take a :class:`.view.View` and return
   a response, and list them in its ``ROUTES``::

       def show(view: View) -> Response:
           endpoints = ...  # from view.broker or view.broker.state
           return view.render("webhooks.html", title="Webhooks", endpoints=endpoints)

       def disable(view: View) -> Response:
           id = view.id_field("endpoint")
           ...
           view.record("webhooks endpoints disable", endpoint=id)
           return view.redirect("webhooks", flash=f"Disabled {id}.")

       ROUTES = (
           Route("/webhooks", "webhooks", show, label="Webhooks"),
           Route("/webhooks/disable", "webhooks.disable", disable, method="POST"),
       )

   Then add ``webhooks.ROUTES`` to ``pages/__init__.py``. A route with a ``label`` is in the
   navigation, in the order of the list. A route has one method: GET, or POST, which only
   operators may call. Queue names and ids go into the query string
   (``view.argument("queue")``, ``view.id_argument("id")``), because they may hold any character.

2. **Template.** ``templates/webhooks.html`` begins with ``{% extends "base.html" %}``, sets
   ``section`` to the name of its route (marks it in the navigation) and fills the block
   ``content``. ``{{ … }}`` escapes HTML and shows control and direction characters as escapes, so
   text from outside needs no filter. ``url(name, **arguments)`` builds a link; ids need ``|id``:
   ``url("job", queue=entry.queue|id, id=entry.id|id)``. ``macros.html`` has times, numbers, tags
   and empty states. An undefined variable is an error. No inline script, style or event handler:
   the policy forbids them.

3. **Role.** ``view.may_change`` says whether the user is an operator; in templates,
   ``{% if may_change %}`` surrounds the forms. ``view.user`` has the name and the role.

4. **Forms.** ``<form method="post" action="{{ url('webhooks.disable') }}">``. The application has
   checked Origin, session and role before the function runs. Read fields with
   ``view.field(name)`` or ``view.id_field(name)``, call ``view.record(…)`` for the audit log, and
   return ``view.redirect(…, flash=…)``, so that a reload repeats nothing. A problem to show on the
   next page: ``view.redirect(…, flash=…, kind="problem")``. ``data-confirm="Delete 3 dead
   letters?"`` on the form or its button asks in the browser before something is destroyed.

5. **Refresh.** An element with ``data-live`` and an ``id`` is brought up to date every few seconds
   from the same page, requested again. Focus, selection, scroll position, open ``<details>`` and
   the state of form fields stay. Give repeated elements (rows) a ``data-key`` so that they keep
   their identity. Nothing else is needed; without JavaScript the page stays as it is.

6. **Errors.** A ``FormrelayError`` becomes a page with status 503. Catch ``NotAvailable`` and say
   it in words where the data would be. ``raise view.not_found("…")`` makes a 404.

7. **Tests.** ``tests/ops/dashboard/conftest.py`` has the fixtures: ``site`` is an application on
   real Redis with clients of each role; ``HOSTILE`` is a text to put into every field.
"""

from __future__ import annotations

from .app import make_app

__all__ = ["make_app"]
