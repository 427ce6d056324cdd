"""The only place that changes a study's, job's, run's or attempt's state.

Every function takes the session of an open write transaction (`store.database.writing`) and the time, changes states
and writes an event for each change; the caller commits. What came too late or from a replaced attempt raises
ConflictError and changes nothing.

    job      waiting → ready → active → done | failed | quarantined;   waiting → skipped;   active → ready
    run      offered → claimed → closed
    attempt  offered → running → delivering → accepted;   any of them → ended(reason)
"""

from jsm_queue.lifecycle.attempts import accept, check_session, claim, end, offer
from jsm_queue.lifecycle.sessions import heartbeat, hello, join, reap
from jsm_queue.lifecycle.studies import add_study, cancel_study, end_study, list_jobs, write_verdict

__all__ = [
    "accept",
    "add_study",
    "cancel_study",
    "check_session",
    "claim",
    "end",
    "end_study",
    "heartbeat",
    "hello",
    "join",
    "list_jobs",
    "offer",
    "reap",
    "write_verdict",
]
