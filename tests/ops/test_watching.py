"""``formrelay queues --watch`` on a terminal, as a person sees it."""

from __future__ import annotations

import codecs
import os
import pty
import re
import select
import termios
import time
from pathlib import Path

import pytest
import redis

from formrelay.brokers.redis.keys import Keys
from tests.support.command import Program, clean_environment

#: Takes the terminal as a login shell does, so that Ctrl-C reaches it; draws often.
CODE = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from formrelay.ops.cli import main, queues
queues._EVERY_SECONDS = 0.1
sys.argv = ["formrelay", "queues", "--watch"]
main()
"""
STYLES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Watched:
    """The command on a terminal of 80 columns."""

    def __init__(self, folder: Path, *, lines: int = 40, **env: str) -> None:
        self._ours, other = pty.openpty()
        self.modes = termios.tcgetattr(other)
        env = clean_environment(**env, COLUMNS="80", LINES=str(lines), TERM="xterm")
        self.program = Program(("-c", CODE), folder, env, [other] * 3, in_session=True)
        self._other = other  # keeps the terminal open after the command's end
        self.shown = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a character may come in pieces

    def wait_for(self, pattern: str) -> None:
        """Read until the text since the last match, without styles, matches."""
        end, start = time.monotonic() + 60, len(self.shown)
        while not re.search(pattern, STYLES.sub("", self.shown[start:])):
            assert time.monotonic() < end, self.shown
            assert self.program.poll() is None, self.shown
            if select.select([self._ours], [], [], 1)[0]:
                self.shown += self._decoder.decode(os.read(self._ours, 65_536))

    def rest(self) -> str:
        """All text, after the command has ended."""
        while select.select([self._ours], [], [], 0)[0]:
            self.shown += self._decoder.decode(os.read(self._ours, 65_536))
        return self.shown

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def modes_now(self) -> list[object]:
        return termios.tcgetattr(self._other)

    def close(self) -> None:
        self.program.kill()
        os.close(self._other)
        os.close(self._ours)


@pytest.mark.redis
def test_the_table_is_drawn_again_until_ctrl_c_and_the_terminal_is_restored(
    tmp_path: Path, redis_url: str
) -> None:
    keys = Keys("dramatiq")
    watched = Watched(tmp_path, REDIS_URL=redis_url)
    try:
        watched.wait_for(r"emails +0 ")
        with redis.Redis.from_url(redis_url) as client:
            client.rpush(keys.waiting("emails"), *(f"m{number}" for number in range(12)))
            watched.wait_for(r"emails +12 .*no worker")
            client.delete(keys.waiting("emails"))
        watched.wait_for(r"emails +0 ")
        assert watched.shown.rfind("\x1b[?25l") > watched.shown.rfind("\x1b[?25h")  # hidden
        watched.type(b"\x03")
        assert watched.program.wait(60) == 0
        assert watched.modes_now() == watched.modes
        assert watched.rest().rfind("\x1b[?25h") > watched.rest().rfind("\x1b[?25l")  # shown
    finally:
        watched.close()
    assert "Traceback" not in watched.shown
    assert "Aborted" not in watched.shown


@pytest.mark.redis
def test_an_outage_is_shown_and_the_watch_goes_on(tmp_path: Path) -> None:
    watched = Watched(tmp_path, REDIS_URL="redis://127.0.0.1:1")
    try:
        watched.wait_for(r"expected Redis at 127.0.0.1:1 to answer")
        watched.wait_for(r"trying again")
        watched.type(b"\x03")
        assert watched.program.wait(60) == 0
    finally:
        watched.close()


@pytest.mark.redis
def test_rows_that_do_not_fit_are_counted(tmp_path: Path, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        for number in range(20):
            client.hset(Keys("dramatiq").bodies(f"q{number:02}"), "m1", "{}")
    watched = Watched(tmp_path, lines=15, REDIS_URL=redis_url)
    try:
        watched.wait_for(r"Queues,[\s\S]*more rows: enlarge the terminal")
        drawing = STYLES.sub("", watched.shown)
        drawing = drawing[: drawing.index("more rows")].rpartition("Queues,")[2]
        drawn = len(re.findall(r"^(?:q\d\d|[a-z]+s) ", drawing, re.MULTILINE))
        assert drawn + int(drawing.split()[-1]) == 26
        assert 5 < drawn < 14
        watched.type(b"\x03")
        assert watched.program.wait(60) == 0
    finally:
        watched.close()
