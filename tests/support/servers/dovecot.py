"""A Dovecot that serves the folder INBOX of ``reports@here.example`` over IMAP.

Logs in with a password (PLAIN, only under TLS) or an access token (XOAUTH2), which Dovecot checks
at a URL of the test. The configuration is that of Dovecot 2.3 (Debian 12).
"""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path
from typing import ClassVar

from tests.support.servers.base import find_program, write
from tests.support.servers.mail import RootServer
from tests.support.servers.run import Run

_OWNER = "nobody"
_CONFIG = """base_dir = {folder}/run
state_dir = {folder}/state
log_path = /dev/stderr
listen = 127.0.0.1
protocols = imap
ssl = required
ssl_cert = <{folder}/certificate.pem
ssl_key = <{folder}/key.pem
mail_location = maildir:{folder}/mail
first_valid_uid = 1
first_valid_gid = 1
auth_mechanisms = plain xoauth2
auth_failure_delay = 0
service imap-login {{
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
passdb {{
  driver = passwd-file
  mechanisms = plain
  args = scheme=PLAIN {folder}/users
}}
passdb {{
  driver = oauth2
  mechanisms = xoauth2
  args = {folder}/oauth2.conf.ext
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={folder}/home
}}
"""
_OAUTH = """tokeninfo_url = {url}?access_token=
username_attribute = email
"""


class DovecotServer(RootServer):
    """Dovecot on 127.0.0.1, with STARTTLS; needs root."""

    kind: ClassVar[str] = "dovecot"
    package: ClassVar[str] = "dovecot-imapd"
    config: ClassVar[str] = "dovecot.conf"

    user: ClassVar[str] = "reports@here.example"
    password: ClassVar[str] = "secret-7204"

    def __init__(
        self, run: Run | None = None, *, certificate: tuple[Path, Path], token_info: str
    ) -> None:
        """
        Args:
            certificate: files of the certificate and its key.
            token_info: URL that answers 200 and ``{"email": …}`` for a valid access token.
        """
        super().__init__(run)
        self._certificate, self._token_info = certificate, token_info

    @classmethod
    def program(cls) -> str | None:
        """Path of `dovecot`; None also without its IMAP service."""
        has_imap = Path("/usr/lib/dovecot/imap").exists()
        return find_program("dovecot") if has_imap else None

    @property
    def url(self) -> str:
        """`imap://127.0.0.1:port`."""
        return f"imap://127.0.0.1:{self.port}"

    def deliver(self, name: str, content: bytes) -> None:
        """Put a message into the folder."""
        path = self.data_dir / "mail" / "tmp" / name
        path.write_bytes(content)
        owner = pwd.getpwnam(_OWNER)
        os.chown(path, owner.pw_uid, owner.pw_gid)
        path.rename(self.data_dir / "mail" / "new" / name)

    def _start(self, program: str) -> None:
        self._process = self._spawn([program, "-F", "-c", str(self.data_dir / "dovecot.conf")])

    def _configure(self) -> None:
        folder, owner = self.data_dir, pwd.getpwnam(_OWNER)
        self._run.folder.chmod(0o711)
        folder.chmod(0o755)
        ids = {"uid": owner.pw_uid, "gid": owner.pw_gid}
        for name in ("mail", "mail/new", "mail/cur", "mail/tmp", "home"):
            (folder / name).mkdir()
            os.chown(folder / name, owner.pw_uid, owner.pw_gid)
        certificate, key = (path.read_text() for path in self._certificate)
        write(folder / "certificate.pem", certificate)
        write(folder / "key.pem", key).chmod(0o600)
        write(folder / "users", f"{self.user}:{self.password}\n")
        write(folder / "oauth2.conf.ext", _OAUTH.format(url=self._token_info))
        write(folder / "dovecot.conf", _CONFIG.format(folder=folder, port=self.port, **ids))

    def _answers(self) -> bool:
        return self._ask(b"a LOGOUT\r\n").startswith(b"* OK")

    def stop(self, timeout: float = 30.0) -> None:
        """Send SIGTERM, on which the master ends its services; after that, those that are left."""
        super().stop(timeout)
        program = self.program()
        if program:
            config = str(self.data_dir / "dovecot.conf")
            subprocess.run([program, "-c", config, "stop"], capture_output=True, check=False)
