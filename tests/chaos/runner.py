"""`python -m tests.chaos.runner`: the runner, with the kinds of this package."""

import contextlib
import sys

from jsm_queue.kinds import KINDS
from tests.chaos import kinds
from tests.chaos.bugs import planted
from workers import runner, safepoints

if __name__ == "__main__":
    safepoints.CHECKPOINT_S, safepoints.SHARE = 1.0, 1.0
    sys.modules |= {f"workers.kinds.{kind}": kinds for kind in KINDS}
    with planted(), contextlib.suppress(BrokenPipeError):
        runner.main()
