"""A webhook receiver that answers 200, after an optional pause. Requests to ``/hang…`` hang.

    python bench/receiver.py PAUSE_SECONDS [FILE]

Writes a byte to the file for each webhook. Prints its port and runs until standard input is closed.
Then prints as JSON the number of webhooks and the 99th percentile of their latency, computed from
``"sent":<unix seconds>`` in the body.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nok"
_LENGTH = b"content-length:"
_SENT = b'"sent":'


class Receiver(asyncio.Protocol):
    """One connection with any number of requests."""

    def __init__(self, pause: float, latencies: list[float], done: int | None) -> None:
        self._pause = pause
        self._latencies = latencies
        self._done = done
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            at = head.find(_LENGTH)
            length = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._data) < end + 4 + length:
                return
            body = self._data[end + 4 : end + 4 + length]
            self._data = self._data[end + 4 + length :]
            if head.startswith(b"post /hang"):
                continue
            if (sent := body.find(_SENT)) >= 0:
                number = body[sent + len(_SENT) :].split(b",", 1)[0].rstrip(b"}")
                self._latencies.append(time.time() - float(number))
            if self._done is not None:
                os.write(self._done, b".")
            if self._pause:
                asyncio.get_running_loop().call_later(self._pause, self._transport.write, ANSWER)
            else:
                self._transport.write(ANSWER)


async def main(pause: float, path: str | None = None) -> None:
    done = None if path is None else os.open(path, os.O_WRONLY | os.O_APPEND)
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    server = await loop.create_server(
        lambda: Receiver(pause, latencies, done), "127.0.0.1", 0, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()
    latencies.sort()
    p99 = latencies[int(len(latencies) * 0.99)] * 1000 if latencies else None
    print(json.dumps({"arrived": len(latencies), "p99_ms": p99}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), *sys.argv[2:3]))
