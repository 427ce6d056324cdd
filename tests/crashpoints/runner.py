"""`python -m tests.crashpoints.runner`: the runner, with toy kinds."""

import contextlib
import sys

from jsm_queue.kinds import KINDS
from tests.crashpoints import kinds
from workers import runner

if __name__ == "__main__":
    sys.modules |= {f"workers.kinds.{kind}": kinds for kind in KINDS}
    with contextlib.suppress(BrokenPipeError):
        runner.main()
