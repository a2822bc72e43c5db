"""A RabbitMQ node with its own name and its own epmd.

The program is RabbitMQ's script, not Debian's wrapper in sbin: the wrapper changes to the user
`rabbitmq`, who has no access to the run's folder, and its process id is that of a shell. The node
runs as the user who runs the tests.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar, Self

from tests.support.servers.base import Server, ServerError, find_program, free_port, write
from tests.support.servers.run import Run
from tests.support.waiting import wait_until

_SCRIPTS = "/usr/lib/rabbitmq/bin"
#: Erlang applications whose modules RabbitMQ loads one by one while it starts.
_APPLICATIONS = (
    *("rabbit", "rabbit_common", "rabbitmq_prelaunch", "cuttlefish", "ra", "osiris", "aten"),
    *("amqp_client", "ranch", "sysmon_handler", "syslog", "observer_cli", "recon", "systemd"),
    *("jsx", "credentials_obfuscation", "mnesia", "sasl", "os_mon", "ssl", "public_key", "inets"),
    *("compiler", "xmerl", "tools", "syntax_tools"),
)
_MANAGEMENT = (
    *("rabbitmq_management", "rabbitmq_management_agent", "rabbitmq_web_dispatch"),
    *("cowboy", "cowlib"),
)


class RabbitServer(Server):
    """RabbitMQ with the user guest.

    Args:
        management: add the HTTP API at `api_url`, which makes an orderly stop 5 s slower.
        consumer_timeout_ms: RabbitMQ's `consumer_timeout`, enforced every second (otherwise every
            minute); None keeps its default.
    """

    kind: ClassVar[str] = "rabbitmq"
    package: ClassVar[str] = "rabbitmq-server"

    def __init__(
        self,
        run: Run | None = None,
        *,
        management: bool = False,
        consumer_timeout_ms: int | None = None,
    ) -> None:
        super().__init__(run)
        self._epmd: subprocess.Popen[bytes] | None = None
        self._has_epmd_of_its_own = True
        self._epmd_port = free_port()
        self._api_port = free_port() if management else None
        advanced = "[].\n"
        if consumer_timeout_ms is not None:
            ticks = f"{{channel_tick_interval, 1000}}, {{consumer_timeout, {consumer_timeout_ms}}}"
            advanced = f"[{{rabbit, [{ticks}]}}].\n"
        plugins = "rabbitmq_management" if management else ""
        self._preload = _preload(_APPLICATIONS + (_MANAGEMENT if management else ()))
        folder = self.data_dir
        self._env = {
            "HOME": str(folder),  # the folder of the Erlang cookie
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"formrelay-{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",  # instead of the configuration of the machine
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(write(folder / "advanced.config", advanced)),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(write(folder / "plugins", f"[{plugins}].\n")),
            "RABBITMQ_CONFIG_FILE": str(write(folder / "rabbitmq.conf", self._config())),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            # The script executes the node without a fork, so that our process id is the node's.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    @property
    def name(self) -> str:
        """Name of the node."""
        return self._env["RABBITMQ_NODENAME"]

    def share(self, nodes: Sequence[RabbitServer]) -> None:
        """Form a cluster with `nodes` at the first start; all use the first node's epmd."""
        first = nodes[0]
        self._has_epmd_of_its_own = self is first
        for variable in ("HOME", "ERL_EPMD_PORT"):
            self._env[variable] = first._env[variable]
        lines = [
            f"cluster_formation.classic_config.nodes.{number} = {node.name}"
            for number, node in enumerate(nodes, 1)
        ]
        write(Path(self._env["RABBITMQ_CONFIG_FILE"]), self._config() + "\n".join(lines) + "\n")

    @classmethod
    def program(cls) -> str | None:
        """Path of RabbitMQ's script; None if it or epmd is missing."""
        script = find_program(f"{_SCRIPTS}/rabbitmq-server", "rabbitmq-server")
        return script if find_program("epmd") else None

    @property
    def url(self) -> str:
        """`amqp://guest:guest@127.0.0.1:port/%2F`."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"

    @property
    def api_url(self) -> str:
        """URL of the management API, including user and password."""
        if self._api_port is None:
            raise ServerError("this RabbitServer was made without management=True")
        return f"http://guest:guest@127.0.0.1:{self._api_port}/api"

    def exports(self) -> dict[str, str]:
        """The variables of every server, and FORMRELAY_TEST_RABBITMQ_API_URL."""
        api = {"FORMRELAY_TEST_RABBITMQ_API_URL": self.api_url} if self._api_port else {}
        return {**super().exports(), **api}

    def launch(self) -> None:
        """Start epmd unless it runs already, then the node."""
        program = self._require_program()
        if self._epmd is None and self._has_epmd_of_its_own:
            self._start_epmd()
        self._process = self._spawn([program], {**self._env, "ERL_AFLAGS": self._preload})

    def close(self) -> None:
        """Kill the node and its epmd, and remove the data."""
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
        super().close()

    def ctl(self, *arguments: str) -> str:
        """Run `rabbitmqctl` on this node (0.4 s a call); returns its output."""
        program = find_program(f"{_SCRIPTS}/rabbitmqctl", "rabbitmqctl")
        done = subprocess.run(
            [program or "rabbitmqctl", "--quiet", *arguments],
            env={**self._run.env(), **self._env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if done.returncode:
            raise ServerError(f"rabbitmqctl {' '.join(arguments)}: {done.stderr or done.stdout}")
        return done.stdout

    def wait_on_disk(self, *queues: str, vhost: str = "/", timeout: float = 10.0) -> None:
        """Wait until new quorum queues would survive `kill()`.

        RabbitMQ 3.10 writes the name of a new queue into its registry (Ra's names.dets) about a
        second after the declaration. If it is killed before, the queue is declared after the
        restart but has no log and never a leader: confirmed messages are lost and every operation
        times out. Messages in a registered queue are safe at once.
        """
        prefix = vhost.replace("/", "%2F")
        # With the length that precedes an atom, so that `q.1` is not found in `q.10`.
        names = [
            bytes([len(name)]) + name for name in (f"{prefix}_{queue}".encode() for queue in queues)
        ]
        node = self._env["RABBITMQ_NODENAME"]
        registry = self.data_dir / "mnesia" / node / "quorum" / node / "names.dets"

        def has_all() -> bool:
            return registry.exists() and all(name in registry.read_bytes() for name in names)

        try:
            wait_until(has_all, timeout=timeout, every=0.02)
        except AssertionError:
            raise ServerError(
                f"not in {registry} after {timeout:.0f} s: {', '.join(queues)}"
            ) from None

    def _config(self) -> str:
        lines = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            f"log.file = {self.log}",
            "log.console = false",
            # A quarter of the default: the folder may be in memory.
            f"raft.wal_max_size_bytes = {128 * 2**20}",
        ]
        if self._api_port is not None:
            lines += [
                "management.tcp.ip = 127.0.0.1",
                f"management.tcp.port = {self._api_port}",
            ]
        return "\n".join(lines) + "\n"

    def _start_epmd(self) -> None:
        # Erlang would start epmd as a daemon on the standard port, which outlives the tests and
        # which all users of the machine share.
        program = find_program("epmd")
        assert program is not None
        argv = [program, "-port", str(self._epmd_port), "-address", "127.0.0.1"]
        epmd = self._epmd = self._spawn(argv, self._env)
        question = [program, "-port", str(self._epmd_port), "-names"]

        def answers() -> bool:
            if epmd.poll() is not None:
                raise ServerError(f"epmd ended at once on port {self._epmd_port}")
            return subprocess.run(question, capture_output=True, check=False).returncode == 0

        try:
            wait_until(answers, every=0.02)
        except AssertionError:
            raise ServerError(f"epmd did not start on port {self._epmd_port}") from None

    def _answers(self) -> bool:
        # The listener opens as the last step of the boot. A node that is ready answers the protocol
        # header with the method frame Connection.Start.
        return self._ask(b"AMQP\x00\x00\x09\x01").startswith(b"\x01")


def _preload(applications: Sequence[str]) -> str:
    """Erlang's arguments to load these applications' modules at once (saves 1.5 s of CPU).

    The node starts another Erlang, to make sure that epmd runs. Unsetting the variable keeps that
    Erlang, which has no use for the modules, from loading them too (another 2 s).
    """
    folders = f"App <- [{','.join(applications)}], Folder <- [code:lib_dir(App)], is_list(Folder)"
    files = 'File <- filelib:wildcard(filename:join([Folder, "ebin", "*.beam"]))'
    names = f'list_to_atom(filename:basename(File, ".beam")) || {folders}, {files}'
    return f"-eval 'os:unsetenv(\"ERL_AFLAGS\"), code:ensure_modules_loaded([{names}]).'"


class RabbitCluster:
    """Three nodes, started in 20 s; the end of the `with` block stops them."""

    def __init__(self) -> None:
        self._started = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.nodes = [RabbitServer() for _ in range(3)]
            # All nodes use the first node's epmd, so it is stopped last.
            for node in self.nodes:
                stack.callback(node.close)
            cookie = self.nodes[0].data_dir / ".erlang.cookie"
            write(cookie, "formrelay-tests").chmod(0o400)
            for node in self.nodes:
                node.share(self.nodes)
            for node in self.nodes:
                node.launch()
            for node in self.nodes:
                node.wait_ready()
            wait_until(self._is_whole, timeout=30, every=0.5)
            self._started = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._started.close()

    @property
    def url(self) -> str:
        """URL that names all nodes."""
        return ";".join(node.url for node in self.nodes)

    def _is_whole(self) -> bool:
        status = json.loads(self.nodes[0].ctl("cluster_status", "--formatter", "json"))
        return len(status["running_nodes"]) == len(self.nodes)
