"""Static files, under URLs that contain a hash of the content and so may be cached for ever."""

from __future__ import annotations

import hashlib
import mimetypes
from functools import cache
from importlib import resources

from werkzeug import Response
from werkzeug.exceptions import NotFound


@cache
def asset_names() -> dict[str, str]:
    """The name in URLs of each static file, by its file name."""
    names = {}
    for file in resources.files(__package__).joinpath("static").iterdir():
        stem, _, kind = file.name.rpartition(".")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        names[file.name] = f"{stem}.{digest}.{kind}"
    return names


def serve_asset(name: str) -> Response:
    """Return a static file by its name in URLs."""
    file = next((file for file, hashed in asset_names().items() if hashed == name), None)
    if file is None:
        raise NotFound
    content = resources.files(__package__).joinpath("static", file).read_bytes()
    kind = mimetypes.guess_type(file)[0] or "application/octet-stream"
    response = Response(content, content_type=f"{kind}; charset=utf-8")
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    return response
