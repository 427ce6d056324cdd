"""Named points at which a kill test lets a process die, as if by `kill -9` or a power cut.

`JSM_CRASH_AT=name,name` makes a process kill itself when it reaches one of those points. `JSM_CRASH_ONCE=folder` limits
that to once a name: whoever dies leaves a file of that name in the folder, and whoever finds it goes on. Without
`JSM_CRASH_AT` a point does nothing.

Points of a worker: claimed, fetched, result_written, before_result_post, after_result_post (agent), mid_job (runner).
Points of the api: offer_commit, claim_commit, accept_commit, plan_commit (all before their commit), before_ring,
artifact_renamed.
"""

import os
import signal
from pathlib import Path


def reach(name: str) -> None:
    """Die here when `JSM_CRASH_AT` names this point."""
    if name not in os.environ.get("JSM_CRASH_AT", "").split(","):
        return
    once = os.environ.get("JSM_CRASH_ONCE")
    if once:
        try:
            (Path(once) / name).touch(exist_ok=False)
        except FileExistsError:
            return
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # on Windows SIGTERM is TerminateProcess
