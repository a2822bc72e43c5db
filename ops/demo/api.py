"""A stand-in for the platform's Django API, until ``examples/django_site`` exists.

``python -m formrelay.ops.demo.api`` answers the calls of the Django API that the
demo needs: submissions with an idempotency key, and the webhooks of a form. What
it is told comes on standard input, see :mod:`.server`:
``{"fd": listening socket, "token": bearer token, "database": path of an SQLite file}``.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
import threading
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from .server import Handler, configuration, serve

_PAGE = 200
_SCHEMA = """
CREATE TABLE IF NOT EXISTS submissions (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, form_id TEXT NOT NULL,
    status TEXT NOT NULL, content TEXT NOT NULL, digest BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS submissions_of_form ON submissions (form_id, number);
CREATE TABLE IF NOT EXISTS webhooks (form_id TEXT PRIMARY KEY, endpoints TEXT NOT NULL);
"""
_STATUSES = ("completed", "pending_payment", "draft")

Json = dict[str, Any]


class Store:
    """Submissions and webhooks in an SQLite file. Safe to share between threads."""

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)

    def save(self, submission: Json) -> int:
        """Save it once: 201 when it is new, 200 the same again, 409 with other content."""
        content = json.dumps(submission, sort_keys=True)
        digest = hashlib.sha256(content.encode()).digest()
        with self._lock, self._db:
            row = self._db.execute(
                "SELECT digest FROM submissions WHERE id = ?", (submission["submissionId"],)
            ).fetchone()
            if row is not None:
                return 200 if row[0] == digest else 409
            self._db.execute(
                "INSERT INTO submissions (id, form_id, status, content, digest)"
                " VALUES (?, ?, ?, ?, ?)",
                (
                    submission["submissionId"],
                    submission["formId"],
                    submission["status"],
                    content,
                    digest,
                ),
            )
            return 201

    def find(self, submission_id: str) -> Json | None:
        """A submission as the API shows it."""
        with self._lock:
            row = self._db.execute(
                "SELECT content FROM submissions WHERE id = ?", (submission_id,)
            ).fetchone()
        return None if row is None else _shown(row[0])

    def page(self, form_id: str, page: int) -> tuple[int, list[Json]]:
        """How many submissions a form has, and one page of them (from 1), oldest first."""
        with self._lock:
            (count,) = self._db.execute(
                "SELECT count(*) FROM submissions WHERE form_id = ?", (form_id,)
            ).fetchone()
            rows = self._db.execute(
                "SELECT content FROM submissions WHERE form_id = ? ORDER BY number"
                " LIMIT ? OFFSET ?",
                (form_id, _PAGE, (page - 1) * _PAGE),
            ).fetchall()
        return count, [_shown(content) for (content,) in rows]

    def set_webhooks(self, form_id: str, endpoints: list[Json]) -> None:
        """Where completed submissions of a form go from now on."""
        with self._lock, self._db:
            self._db.execute(
                "INSERT OR REPLACE INTO webhooks VALUES (?, ?)", (form_id, json.dumps(endpoints))
            )

    def webhooks(self, form_id: str) -> list[Json]:
        """Where they go."""
        with self._lock:
            row = self._db.execute(
                "SELECT endpoints FROM webhooks WHERE form_id = ?", (form_id,)
            ).fetchone()
        return [] if row is None else list(json.loads(row[0]))


def _shown(content: str) -> Json:
    submission = json.loads(content)
    return {"id": submission.pop("submissionId"), **submission}


def complaints(submission: object) -> dict[str, list[str]]:
    """What is wrong with a submission, by field."""
    if not isinstance(submission, dict):
        return {"non_field_errors": ["expected a JSON object"]}
    wrong = {
        name: ["expected a text"]
        for name in ("submissionId", "formId")
        if not isinstance(submission.get(name), str) or not submission[name]
    }
    if submission.get("status") not in _STATUSES:
        wrong["status"] = [f"expected one of {', '.join(_STATUSES)}"]
    if not isinstance(submission.get("answers"), dict):
        wrong["answers"] = ["expected an object"]
    return wrong


def api(store: Store, token: str) -> type[Handler]:
    """The handler of the API's requests."""

    class ApiHandler(Handler):
        def do_POST(self) -> None:
            body = self.read()
            if self._let_in():
                if self._path() == ["submissions"]:
                    self._save(_parse(body))
                else:
                    self.answer(404, {"detail": "Not found."})

        def do_PUT(self) -> None:
            body = self.read()
            if not self._let_in():
                return
            match self._path():
                case ["forms", form_id, "webhooks"]:
                    self._set_webhooks(form_id, _parse(body))
                case _:
                    self.answer(404, {"detail": "Not found."})

        def do_GET(self) -> None:
            if not self._let_in():
                return
            match self._path():
                case ["submissions"]:
                    self._list()
                case ["submissions", submission_id] if found := store.find(submission_id):
                    self.answer(200, found)
                case _:
                    self.answer(404, {"detail": "Not found."})

        def _let_in(self) -> bool:
            given = self.headers.get("Authorization", "").encode("latin-1")
            if hmac.compare_digest(given, f"Bearer {token}".encode()):
                return True
            self.answer(401, {"detail": "Invalid token."})
            return False

        def _path(self) -> list[str]:
            """What comes after ``/api/v1/``."""
            parts = urlsplit(self.path).path.strip("/").split("/")
            return [unquote(part) for part in parts[2:]] if parts[:2] == ["api", "v1"] else []

        def _save(self, submission: Any) -> None:
            if wrong := complaints(submission):
                self.answer(400, wrong)
                return
            if self.headers.get("Idempotency-Key") != submission["submissionId"]:
                self.answer(400, {"Idempotency-Key": ["expected the submissionId"]})
                return
            status = store.save(submission)
            if status == 409:
                self.answer(409, {"detail": "The key was used with other content."})
                return
            completed = submission["status"] == "completed"
            self.answer(
                status,
                {
                    "id": submission["submissionId"],
                    "status": submission["status"],
                    "webhooks": store.webhooks(submission["formId"]) if completed else [],
                },
            )

        def _set_webhooks(self, form_id: str, endpoints: Any) -> None:
            if not isinstance(endpoints, list) or not all(map(_is_endpoint, endpoints)):
                self.answer(400, {"non_field_errors": ["expected a list of url and secret"]})
                return
            store.set_webhooks(form_id, endpoints)
            self.answer(200, endpoints)

        def _list(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            form_id, number = query.get("formId", [""])[0], query.get("page", ["1"])[0]
            page = int(number) if number.isascii() and number.isdigit() else 0
            if page < 1:
                self.answer(404, {"detail": "Invalid page."})
                return
            count, results = store.page(form_id, page)
            following = urlencode({"formId": form_id, "page": page + 1})
            more = f"/api/v1/submissions/?{following}" if page * _PAGE < count else None
            self.answer(200, {"count": count, "next": more, "results": results})

    return ApiHandler


def _is_endpoint(one: object) -> bool:
    return isinstance(one, dict) and all(isinstance(one.get(key), str) for key in ("url", "secret"))


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


if __name__ == "__main__":
    told = configuration()
    serve(told["fd"], api(Store(told["database"]), told["token"]))
