"""`python -m tests.integration.hasty`: the agent, which sends checkpoints to the api at once.

Its runners, which write them as often, are this module too: with "runner" as its argument.
"""

import contextlib
import sys

from workers import agent, checkpoints, runner, safepoints, slots

if __name__ == "__main__":
    if sys.argv[1:] == ["runner"]:
        safepoints.CHECKPOINT_S, safepoints.SHARE = 0.2, 1.0
        with contextlib.suppress(BrokenPipeError):
            runner.main()
    else:
        slots.RUNNER = ("-m", "tests.integration.hasty", "runner")
        checkpoints.SEND_S, checkpoints.SEND_FACTOR = 0.2, 1
        raise SystemExit(agent.main())
