"""Changes data of the example site: ``python site_programs.py FUNCTION JSON``.

JSON is the list of arguments; the result is printed as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import django


def make_form(id: str, title: str = "", questions: list[Any] | None = None) -> None:
    from forms.models import Form

    fields = {"title": title, "questions": questions or []}
    Form.objects.update_or_create(id=id, defaults=fields)


def make_token() -> str:
    from forms.models import ApiToken

    record, token = ApiToken.make("test")
    record.save()
    return token


def disable_tokens() -> None:
    from forms.models import ApiToken

    ApiToken.objects.update(is_active=False)


if __name__ == "__main__":
    _, function, arguments = sys.argv
    os.environ["DJANGO_SETTINGS_MODULE"] = "formsite.settings"
    django.setup()
    print(json.dumps(globals()[function](*json.loads(arguments))))
