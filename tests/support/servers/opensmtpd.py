"""An OpenSMTPD that takes e-mail for `there.example` and keeps it in maildirs.

Debian installs only one mail server, so `scripts/checks.py` unpacks this one into a folder. Its
paths and users are compiled in; it runs in a mount namespace of its own, in which those paths are
folders of the test run and `/etc/passwd` has those users. That needs root.

Without TLS, and so without logins: the TLS of Debian 12's package (6.8.0p2 with OpenSSL 3) fails in
every handshake ("missing private key").
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import ClassVar

from tests.support.servers.base import find_program, write
from tests.support.servers.mail import SmtpServer

#: Where the package is unpacked.
UNPACKED = Path(__file__).resolve().parents[3] / ".servers" / "opensmtpd"
_USERS = {"opensmtpd": 64_801, "opensmtpq": 64_802, "vmail": 64_803}
_CONFIG = """table users {{ ann@there.example = vmail, ben@there.example = vmail, \
cat@there.example = vmail }}
table known {{ ann@there.example, ben@there.example, cat@there.example }}
smtp max-message-size 20K
listen on 127.0.0.1 port {port} hostname mx.there.example
action "keep" maildir "/var/mail/%{{rcpt.user}}" virtual <users>
match from any for rcpt-to <known> action "keep"
"""


class OpenSmtpdServer(SmtpServer):
    """OpenSMTPD on 127.0.0.1."""

    kind: ClassVar[str] = "opensmtpd"
    package: ClassVar[str] = "opensmtpd"
    config: ClassVar[str] = "smtpd.conf"

    @classmethod
    def program(cls) -> str | None:
        """Path of the unpacked `smtpd`; None without it, or if a namespace cannot be made."""
        can_mount = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
        found = find_program(str(UNPACKED / "usr" / "sbin" / "smtpd"))
        return found if not can_mount.returncode else None

    def _start(self, program: str) -> None:
        self._process = self._spawn(["unshare", "-m", "sh", "-euc", self._script(program)])

    def _script(self, program: str) -> str:
        """Mount the folders where the program expects them, then become the program."""
        folder, libexec = self.data_dir, UNPACKED / "usr" / "libexec"
        mounts = {
            libexec: "/usr/libexec",
            folder / "spool": "/var/spool",
            folder / "lib": "/var/lib",
            folder / "run": "/run",
            folder / "mail": "/var/mail",
            folder / "passwd": "/etc/passwd",
            folder / "group": "/etc/group",
        }
        lines = [f"mount --bind {shlex.quote(str(at))} {to}" for at, to in mounts.items()]
        lines.append(f"exec {shlex.quote(program)} -d -f {shlex.quote(f'{folder}/smtpd.conf')}")
        return "\n".join(lines)

    def _configure(self) -> None:
        folder = self.data_dir
        self._run.folder.chmod(0o711)
        folder.chmod(0o755)
        for name in ("spool", "lib/opensmtpd/empty", "run", "mail"):
            (folder / name).mkdir(parents=True)
        os.chown(folder / "mail", _USERS["vmail"], _USERS["vmail"])
        users = [f"{name}:x:{id}:{id}::/:/usr/sbin/nologin\n" for name, id in _USERS.items()]
        groups = [f"{name}:x:{id}:\n" for name, id in _USERS.items()]
        write(folder / "passwd", Path("/etc/passwd").read_text() + "".join(users))
        write(folder / "group", Path("/etc/group").read_text() + "".join(groups))
        write(folder / "smtpd.conf", _CONFIG.format(port=self.port)).chmod(0o600)

    def _answers(self) -> bool:
        return self._ask(b"QUIT\r\n").startswith(b"220")
