"""A relay that puts a server at a distance: what one side sends reaches the other after a pause.

    python bench/distance.py PORT SECONDS_EACH_WAY

Prints its own port and runs until standard input is closed. Connecting takes no time.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

#: Keeps packets of the same instant in order.
_NEXT = 1e-6


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pause: float) -> None:
    """Write what ``reader`` gives after a pause, until it ends."""
    loop = asyncio.get_running_loop()
    at = 0.0
    try:
        while data := await reader.read(65_536):
            at = max(loop.time() + pause, at + _NEXT)
            loop.call_at(at, writer.write, data)
    finally:
        loop.call_at(max(loop.time() + pause, at + _NEXT), writer.close)


async def main(port: int, pause: float) -> None:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
        with suppress(asyncio.CancelledError):  # this process is ending
            await asyncio.gather(
                carry(reader, to_server, pause), carry(from_server, writer, pause),
                return_exceptions=True,
            )  # fmt: skip

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
