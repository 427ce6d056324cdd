"""`python -m tests.crashpoints.runner`: the runner, with toy kinds."""

import contextlib
import math
import sys

from jsm_queue.kinds import KINDS
from tests.crashpoints import kinds
from workers import runner, safepoints

if __name__ == "__main__":
    safepoints.CHECKPOINT_S, safepoints.SHARE = 0.0, math.inf  # each time: no point depends on the time
    sys.modules |= {f"workers.kinds.{kind}": kinds for kind in KINDS}
    with contextlib.suppress(BrokenPipeError):
        runner.main()
