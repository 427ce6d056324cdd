"""News for this api's long polls: whoever waits looks again at once. What another process changed they find later."""

import asyncio


class News:
    """`wait` in the event loop, `tell` from any thread."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def awaited(self) -> bool:
        """Does anybody wait?"""
        return bool(self._waiting)

    async def wait(self, seconds: float) -> None:
        """Until there is news, at most so long."""
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(told)
        try:
            await asyncio.wait([told], timeout=seconds)
        finally:
            self._waiting.discard(told)

    def tell(self) -> None:
        """There is news."""
        for told in tuple(self._waiting):
            told.get_loop().call_soon_threadsafe(_resolve, told)


def _resolve(told: asyncio.Future[None]) -> None:
    if not told.done():
        told.set_result(None)
