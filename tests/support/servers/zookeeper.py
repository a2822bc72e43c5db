"""A ZooKeeper node, which the replicas of a ClickHouse cluster need.

Started from its jar: Debian's package `zookeeper` adds only scripts and a user, and depends on a
desktop Java.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from tests.support.servers.base import Server, find_program, write

_JAR = Path("/usr/share/java/zookeeper.jar")
_CONFIG = """tickTime=500
maxSessionTimeout=60000
dataDir={folder}/data
clientPort={port}
clientPortAddress=127.0.0.1
admin.enableServer=false
4lw.commands.whitelist=srvr
"""


class ZooKeeperServer(Server):
    """ZooKeeper on 127.0.0.1; starts in half a second."""

    kind: ClassVar[str] = "zookeeper"
    package: ClassVar[str] = "libzookeeper-java default-jre-headless"

    @classmethod
    def program(cls) -> str | None:
        """Path of Java; None if Java or ZooKeeper's jar is missing."""
        return find_program("java") if _JAR.exists() else None

    @property
    def url(self) -> str:
        """`127.0.0.1:port`."""
        return f"127.0.0.1:{self.port}"

    def launch(self) -> None:
        """Start it, with a small heap and without the compiler's costlier passes."""
        config = write(
            self.data_dir / "zoo.cfg", _CONFIG.format(folder=self.data_dir, port=self.port)
        )
        java = [self._require_program(), "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        java.append("-Dzookeeper.forceSync=no")  # on a busy disk it would be away for seconds
        main = "org.apache.zookeeper.server.ZooKeeperServerMain"
        self._process = self._spawn([*java, "-cp", str(_JAR), main, str(config)])

    def _answers(self) -> bool:
        # It says imok to ruok before it takes sessions, and ClickHouse 18.16 is killed by a
        # ZooKeeper that turns it away.
        return self._ask(b"srvr").startswith(b"Zookeeper version")
