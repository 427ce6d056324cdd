"""`python -m jsm_queue.cli.proxy`: TLS before a queue that speaks none, such as the embedded Valkey.

It passes bytes on and understands none of them: who may do what is the queue's matter. A side that reads slowly slows
the other down, and nothing is kept but what is on the way. Who ends after sending has all of it delivered. With asyncio
TLS cannot be closed half-way: what the queue still had to say to a client that closed is dropped.
"""

import argparse
import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import sys

from jsm_queue import logs, processes, tls
from jsm_queue.errors import JsmError, SetupError
from jsm_queue.settings import settings

PIECE = 64 * 1024  # bytes on the way, a direction and connection
HANDSHAKE_S = 10.0  # who does not finish it by then is cut off
CLOSING_S = 10.0  # for the queue to take what a client sent before it closed
MOST = 2000  # connections at once; beyond it new ones are closed at once
IDLE_S = 60  # of silence until the system asks whether a client is still there: a PC that sleeps says no goodbye

logger = logging.getLogger("jsm_queue.proxy")


class Proxy:
    """Connections from clients with TLS to one place without."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port, self._open = host, port, 0

    async def serve(self, listen: str, port: int, context: ssl.SSLContext) -> asyncio.Server:
        """Take connections from now on."""
        return await asyncio.start_server(
            self.pass_on, listen, port, ssl=context, ssl_handshake_timeout=HANDSHAKE_S, limit=PIECE, backlog=256
        )

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, to its end."""
        self._open += 1
        try:
            if self._open > MOST:
                logger.warning("more than %d connections: %s is refused", MOST, writer.get_extra_info("peername"))
                return
            _keep_alive(writer)
            await self._connected(reader, writer)
        except (OSError, ssl.SSLError) as error:
            logger.debug("a connection broke: %s", error)
        finally:
            self._open -= 1
            await _close(writer)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(self._host, self._port, limit=PIECE)
        except OSError as error:
            logger.warning("the queue at %s:%d does not answer: %s", self._host, self._port, error)
            return
        to_queue = asyncio.create_task(_pump(reader, back))
        to_client = asyncio.create_task(_pump(there, writer))  # ends when the queue does
        try:
            await asyncio.wait((to_queue, to_client), return_when=asyncio.FIRST_COMPLETED)
            if not to_client.done():  # the client closed: the queue takes what it had sent
                await asyncio.wait((to_client,), timeout=CLOSING_S)
        finally:
            for task in (to_queue, to_client):
                task.cancel()
            await asyncio.gather(to_queue, to_client, return_exceptions=True)
            await _close(back)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All bytes, then the end, where the other side can hear of one. What a side that is gone should get is dropped."""
    gone = False
    with contextlib.suppress(OSError, ssl.SSLError):
        while piece := await reader.read(PIECE):
            gone = gone or not await _send(writer, piece)
        if not gone and writer.can_write_eof():
            writer.write_eof()


async def _send(writer: asyncio.StreamWriter, piece: bytes) -> bool:
    """Returns whether somebody is still there."""
    try:
        writer.write(piece)
        await writer.drain()
    except (OSError, ssl.SSLError):
        return False
    return not writer.is_closing()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError, asyncio.TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), CLOSING_S)


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", IDLE_S), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def run(listen: str, port: int, host: str, to_port: int, context: ssl.SSLContext) -> None:
    """Serve until a signal."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    # Whoever scans a LAN makes broken handshakes: they are no trouble of ours.
    loop.set_exception_handler(lambda _, about: logger.debug("%s", about.get("message")))
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows ends it otherwise
            loop.add_signal_handler(number, ended.set)
    processes.exit_with_parent()
    server = await Proxy(host, to_port).serve(listen, port, context)
    logger.info("TLS on %s:%d, before %s:%d", listen, port, host, to_port)
    await ended.wait()
    server.close()


def main() -> int:
    """The command line; certificate and key are the settings'. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jsm_queue.cli.proxy", description="TLS before the queue.")
    parser.add_argument("--listen", required=True, help="the address to listen on")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to-host", required=True, help="where the queue is")
    parser.add_argument("--to-port", type=int, required=True)
    given = parser.parse_args()
    try:
        config = settings()
        logs.set_up(config.log_format, config.log_level)
        if config.tls_cert is None or config.tls_key is None:
            raise SetupError("The proxy has no certificate", "Set JSM_TLS_CERT and JSM_TLS_KEY; see `jsm tls init`")
        context = tls.server_context(config.tls_cert, config.tls_key)
        asyncio.run(run(given.listen, given.port, given.to_host, given.to_port, context))
    except OSError as error:
        print(f"error: {given.listen}:{given.port} cannot be listened on ({error})", file=sys.stderr)
        return SetupError.exit_code
    except JsmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
