"""`python -m tests.chaos.agent`: the agent, whose runners know this package's kinds, on a network that can fail.

CHAOS_BROKER_PORT   where it finds the broker: a proxy's port
CHAOS_SKEW_S        how far its clock is off
CHAOS_BUG           a bug to plant
"""

import os
import re
import time
from typing import Any

from jsm_queue import broker
from tests.chaos.bugs import planted
from workers import agent, checkpoints, hardware, slots


def main() -> int:
    """The agent's own command line."""
    slots.RUNNER, hardware.NEEDS = ("-m", "tests.chaos.runner"), {}
    checkpoints.SEND_S, checkpoints.SEND_FACTOR = 2.0, 1
    skew, clock = float(os.environ.get("CHAOS_SKEW_S", "0")), time.time
    time.time = lambda: clock() + skew
    port, real = os.environ["CHAOS_BROKER_PORT"], broker.worker_app

    def through_the_proxy(url: str, *given: Any, **named: Any) -> Any:
        return real(re.sub(r":\d+/", f":{port}/", url), *given, **named)

    broker.worker_app = through_the_proxy
    with planted():
        return agent.main()


if __name__ == "__main__":
    raise SystemExit(main())
