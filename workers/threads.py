"""The agent's background threads.

None dies quietly: what ends one ends the agent, which is then started anew.
"""

import logging
import threading
from collections.abc import Callable

from jsm_queue.errors import AuthError, GoneError, JsmError
from workers.client import Stopped

logger = logging.getLogger(__name__)

OnGone = Callable[[JsmError], object]
"""on_gone(why): this session is over; the agent leaves."""


def start(name: str, task: Callable[[], None], on_gone: OnGone) -> threading.Thread:
    """Run `task` in a daemon thread until it returns or raises Stopped."""

    def guarded() -> None:
        try:
            task()
        except Stopped:
            return
        except (GoneError, AuthError) as error:
            on_gone(error)
        except Exception as error:
            logger.exception("the thread %s failed", name)
            on_gone(JsmError(f"the worker's thread {name} failed: {error}", "See the worker's log"))

    thread = threading.Thread(target=guarded, name=name, daemon=True)
    thread.start()
    return thread
