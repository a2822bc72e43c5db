"""A Postfix that takes e-mail for `there.example` and keeps it in a maildir.

Addresses: `ann`, `ben` and `cat` exist; `later@` is deferred (450 4.2.0) and `blocked@` refused by
policy (550 5.7.1). E-mails to `kept@` are accepted and not delivered. Logs in `forms` with the
password `secret-5391`, only under TLS.
"""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
from pathlib import Path
from typing import ClassVar

from tests.support.servers.base import find_program, write
from tests.support.servers.mail import SmtpServer
from tests.support.servers.run import Run
from tests.support.waiting import wait_until

_MASTER_PROGRAM = Path("/usr/lib/postfix/sbin/master")
_OWNER = "postfix"  # a user of Debian's package
_MAIN = """compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
mail_owner = postfix
setgid_group = postdrop
myhostname = mx.there.example
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
maillog_file = {folder}/mail.log
maillog_file_prefixes = {folder}
default_transport = error:5.1.2 no outside world here
relayhost =
alias_maps =
virtual_mailbox_domains = there.example
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = texthash:{folder}/mailboxes
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1
message_size_limit = 20000
smtpd_recipient_restrictions = check_recipient_access texthash:{folder}/access,
    permit_mynetworks, reject
smtpd_recipient_limit = 5
smtpd_error_sleep_time = 0
in_flow_delay = 0
smtpd_hard_error_limit = 10
smtpd_sasl_auth_enable = yes
smtpd_sasl_local_domain = there.example
cyrus_sasl_config_path = {folder}/sasl
smtpd_tls_auth_only = yes
{tls}"""
_TLS = """smtpd_tls_security_level = may
smtpd_tls_cert_file = {certificate}
smtpd_tls_key_file = {key}
"""
_MASTER = """127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""
_SASL = """pwcheck_method: auxprop
auxprop_plugin: sasldb
sasldb_path: {folder}/sasl/users
mech_list: PLAIN LOGIN
"""


class PostfixServer(SmtpServer):
    """Postfix on 127.0.0.1; needs root, as its master process does."""

    kind: ClassVar[str] = "postfix"
    package: ClassVar[str] = "postfix sasl2-bin libsasl2-modules"
    config: ClassVar[str] = "main.cf"

    user: ClassVar[str] = "forms@there.example"
    password: ClassVar[str] = "secret-5391"

    def __init__(
        self, run: Run | None = None, *, certificate: tuple[Path, Path] | None = None
    ) -> None:
        """
        Args:
            certificate: files of the certificate and its key; None for a server without TLS.
        """
        super().__init__(run)
        self._certificate = certificate

    @classmethod
    def program(cls) -> str | None:
        """Path of `postfix`; None also without the program that stores passwords."""
        is_whole = _MASTER_PROGRAM.exists() and find_program("saslpasswd2")
        return find_program("postfix") if is_whole else None

    def _start(self, program: str) -> None:
        folder = str(self.data_dir)
        # Makes the folders of the queue. "start-fg" would leave the master to a shell, which passes
        # no signal on.
        subprocess.run([program, "-c", folder, "check"], check=True, capture_output=True)
        self._process = self._spawn([str(_MASTER_PROGRAM), "-c", folder, "-s"])

    def kill(self) -> None:
        """Stop it. Its services, killed together with their master, would stay for minutes."""
        self.stop()

    def stop(self, timeout: float = 30.0) -> None:
        """Send SIGTERM, on which the master ends its services, and wait for the end of both."""
        if self._process is not None and self.running:
            self._process.terminate()
            self._process.wait(timeout)
            wait_until(self._is_silent, timeout=timeout)

    def _is_silent(self) -> bool:
        # A service that has not ended yet keeps the port.
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) != 0

    def _configure(self) -> None:
        folder = self.data_dir
        self._run.folder.chmod(0o711)
        folder.chmod(0o755)
        owner = pwd.getpwnam(_OWNER)
        for name in ("queue", "data", "mail", "sasl"):
            (folder / name).mkdir()
        for name in ("data", "mail", "sasl"):
            os.chown(folder / name, owner.pw_uid, owner.pw_gid)
        tls = ""
        if self._certificate:
            certificate, key = (path.read_text() for path in self._certificate)
            at = write(folder / "certificate.pem", certificate)
            tls = _TLS.format(certificate=at, key=write(folder / "key.pem", key))
            (folder / "key.pem").chmod(0o600)
        ids = {"uid": owner.pw_uid, "gid": owner.pw_gid}
        write(folder / "main.cf", _MAIN.format(folder=folder, tls=tls, **ids))
        write(folder / "master.cf", _MASTER.format(port=self.port))
        known = ("ann", "ben", "cat", "kept", "later", "blocked", "jörg")
        lines = (f"{name}@there.example {name}/\n" for name in known)
        write(folder / "mailboxes", "".join(lines))
        write(
            folder / "access",
            "later@there.example 450 4.2.0 later@there.example is greylisted, come back later\n"
            "blocked@there.example 550 5.7.1 blocked by policy\n"
            "kept@there.example HOLD\n",
        )
        write(folder / "sasl" / "smtpd.conf", _SASL.format(folder=folder))
        database = folder / "sasl" / "users"
        user, _, realm = self.user.partition("@")
        subprocess.run(
            ["saslpasswd2", "-c", "-p", "-f", str(database), "-u", realm, user],
            input=self.password.encode(),
            check=True,
            capture_output=True,
        )
        os.chown(database, owner.pw_uid, owner.pw_gid)

    def _answers(self) -> bool:
        return self._ask(b"QUIT\r\n").startswith(b"220")
