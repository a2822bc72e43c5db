"""An HTTP server for a modern ClickHouse engine (chdb).

Debian's ClickHouse is too old for clickhouse-connect. This program implements the part of the HTTP
interface that the driver uses: queries, commands, Native inserts, error codes.

    python chdb_http.py FOLDER [CERTIFICATE]     # prints its port; TLS if there is a certificate
"""

from __future__ import annotations

import base64
import re
import ssl
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import chdb
import lz4.frame  # type: ignore[import-untyped]

CREDENTIALS = {"default": "", "relay": "relay-secret"}
_INSERT = re.compile(rb"\s*INSERT INTO (.+?) FORMAT Native\n", re.DOTALL)
#: Settings of an insert, with their defaults.
_SETTINGS = {
    "insert_deduplication_token": "",
    "deduplicate_blocks_in_dependent_materialized_views": "1",
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it would delay the body by 40 ms
    engine: Any = None
    # One query at a time, because USE and SET affect the engine's only connection.
    turn = threading.Lock()

    def do_POST(self) -> None:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self._chunk, b""))
        if not self._let_in():
            self._answer(b"Code: 516. DB::Exception: nope. (AUTHENTICATION_FAILED)", code=516)
            return
        try:
            if self.headers.get("Content-Encoding") == "lz4":
                body = lz4.frame.decompress(body)
            with self.turn:
                out, form = self._run(asked, asked.get("query", "").encode() + body)
        except RuntimeError as error:
            found = re.search(r"Code: (\d+)", str(error))
            self._answer(str(error).encode(), code=int(found.group(1)) if found else 1002)
        else:
            self._answer(out, form=form)

    def _run(self, asked: dict[str, str], sql: bytes) -> tuple[bytes, str]:
        engine = type(self).engine
        if asked.get("database"):
            engine.query(f"USE `{asked['database']}`", "Native")
        insert = _INSERT.match(sql)
        if insert is None:
            native = b"FORMAT Native" in sql
            form = "Native" if native else "TabSeparated"
            return engine.query(sql.decode(), form).bytes() or b"", form
        with tempfile.NamedTemporaryFile(suffix=".native") as block:
            block.write(sql[insert.end() :])
            block.flush()
            for name, usual in _SETTINGS.items():
                engine.query(f"SET {name} = '{asked.get(name, usual)}'", "Native")
            into = insert.group(1).decode()
            engine.query(f"INSERT INTO {into} FROM INFILE '{block.name}' FORMAT Native", "Native")
        return b"", "Native"

    def _let_in(self) -> bool:
        given = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic "))
        user, _, password = given.decode().partition(":")
        return CREDENTIALS.get(user) == password

    def _answer(self, body: bytes, *, form: str = "", code: int = 0) -> None:
        self.send_response(500 if code else 200)
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-ClickHouse-Exception-Code", str(code))
        elif body:
            self.send_header("X-ClickHouse-Format", form)
        else:
            self.send_header("X-ClickHouse-Query-Id", "none")
        self.end_headers()
        self.wfile.write(body)

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline(), 16)
        data = self.rfile.read(size)
        self.rfile.readline()
        return data

    def log_message(self, format: str, *args: object) -> None:
        pass


def main(folder: str, certificate: str | None = None) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    Handler.engine = chdb.connect(folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        print(server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
