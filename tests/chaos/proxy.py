"""A TCP proxy between any two processes, which cuts, slows and corrupts what goes through it."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any

PIECE = 2**16
AWAY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """Listens on a port of its own and forwards to `target`, in a thread of its own.

    `cut`: nothing gets through and what was open is closed; `delay_s`: what each piece waits; `corrupt`: one bit of the
    client's next upload is turned, `corrupt_down`: of its next download; `gateway`: it answers for the server, which it
    says is away.
    """

    def __init__(self, target: int) -> None:
        self.target, self.port = target, 0
        self.delay_s = 0.0
        self.corrupt = self.corrupt_down = False
        self.gateway = False
        self._cut = False
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        threading.Thread(target=self._serve, args=(started,), daemon=True).start()
        started.wait()

    def cut(self, yes: bool) -> None:
        """Cut the line, or mend it."""
        self._cut = yes
        if yes:
            self._do(self._close_all())

    def close(self) -> None:
        """For good."""
        self.cut(True)
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _do(self, task: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(task, self._loop).result(10)

    def _serve(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()

    async def _close_all(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            if self.gateway and not self._cut:
                await reader.read(PIECE)
                writer.write(AWAY)
                await writer.drain()
            elif not self._cut:
                await self._join(reader, writer)
        except OSError:
            pass
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self._open.add(far_writer)
        try:
            await asyncio.gather(self._pump(reader, far_writer, True), self._pump(far_reader, writer, False))
        finally:
            self._open.discard(far_writer)
            far_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up: bool) -> None:
        uploading = downloading = False
        while piece := await reader.read(PIECE):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            uploading = (uploading or piece.startswith(b"PATCH")) and up
            if self.corrupt and uploading and (body := _body(piece)) is not None:
                self.corrupt = False
                piece = _turned(piece, body)
            begins = not up and piece.startswith(b"HTTP/1.1 20") and b"application/octet-stream" in piece
            downloading, at = downloading or begins, piece.find(b"\r\n\r\n") + 4 if begins else 0
            if self.corrupt_down and downloading and at < len(piece):
                self.corrupt_down, downloading = False, False
                piece = _turned(piece, at)
            writer.write(piece)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()


def _turned(piece: bytes, at: int) -> bytes:
    return piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :]


def _body(piece: bytes) -> int | None:
    """Where a file's bytes are in a piece of an upload; None where there are none."""
    if piece.startswith(b"PATCH"):
        end = piece.find(b"\r\n\r\n")
        return end + 10 if 0 <= end < len(piece) - 20 else None
    return 8 if len(piece) > 20 else None
