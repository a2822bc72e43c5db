"""A small IMAP server: one folder, TLS, as much of RFC 3501 as a client of reports needs."""

from __future__ import annotations

import base64
import re
import socket
import ssl
import threading
from typing import Any

PASSWORD = 'se"cret'


class ImapServer:
    """Serves one folder, INBOX, to user ``reports``.

    Attributes:
        messages: contents by UID.
        seen: UIDs that are marked as seen.
        loses_at: the command at which the connection is lost.
    """

    def __init__(self, context: ssl.SSLContext, *, is_tls: bool, capabilities: str) -> None:
        self.messages: dict[int, bytes] = {}
        self.seen: set[int] = set()
        self.loses_at = ""
        self.commands: list[str] = []
        self._context, self._is_tls, self._capabilities = context, is_tls, capabilities
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: Any) -> None:
        try:
            if self._is_tls:
                connection = self._context.wrap_socket(connection, server_side=True)
            file = connection.makefile("rwb")
            self._say(file, "* OK ready")
            while line := file.readline():
                tag, command = line.decode().rstrip("\r\n").split(" ", 1)
                self.commands.append(command)
                if self.loses_at and command.startswith(self.loses_at):
                    break
                if command == "STARTTLS":
                    self._say(file, f"{tag} OK go")
                    connection = self._context.wrap_socket(connection, server_side=True)
                    file = connection.makefile("rwb")
                    continue
                self._answer(file, tag, command)
        except OSError:
            pass
        finally:
            connection.close()

    def _answer(self, file: Any, tag: str, command: str) -> None:
        reply = "OK done"
        if command == "CAPABILITY":
            self._say(file, f"* CAPABILITY IMAP4rev1 {self._capabilities}")
        elif command == "AUTHENTICATE PLAIN":
            self._say(file, "+ ")
            _, user, password = base64.b64decode(file.readline()).decode().split("\0")
            reply = reply if (user, password) == ("reports", PASSWORD) else "NO user reports"
        elif command.startswith("LOGIN"):
            reply = reply if command == 'LOGIN reports "se\\"cret"' else "NO user reports"
        elif command.startswith("SELECT"):
            self._say(file, f"* {len(self.messages)} EXISTS")
            self._say(file, "* OK [UIDVALIDITY 7] valid")
            reply = reply if command == 'SELECT "INBOX"' else "NO folder"
        elif command == "UID SEARCH UNSEEN":
            unseen = sorted(self.messages.keys() - self.seen)
            self._say(file, "* SEARCH " + " ".join(map(str, unseen)))
        elif found := re.fullmatch(r"UID FETCH (\d+) \((.*)\)", command):
            self._fetch(file, int(found[1]), found[2])
        elif found := re.fullmatch(r"UID STORE (\d+) \+FLAGS.SILENT \(\\Seen\)", command):
            self.seen.add(int(found[1]))
        elif command == "LOGOUT":
            self._say(file, "* BYE")
        self._say(file, f"{tag} {reply}")

    def _fetch(self, file: Any, uid: int, what: str) -> None:
        content = self.messages[uid]
        if what == "RFC822.SIZE":
            self._say(file, f"* 1 FETCH (UID {uid} RFC822.SIZE {len(content)})")
        else:
            assert what == "BODY.PEEK[]"
            file.write(b"* 1 FETCH (UID %d BODY[] {%d}\r\n%b)\r\n" % (uid, len(content), content))
            file.flush()

    def _say(self, file: Any, text: str) -> None:
        file.write(text.encode() + b"\r\n")
        file.flush()
