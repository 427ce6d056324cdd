"""The only place that changes a study's, job's, run's, attempt's or artifact's state.

Every function takes the session of an open write transaction (`store.database.writing`) and the time, changes states
and writes an event for each change; the caller commits. What came too late or from a replaced attempt raises
ConflictError and changes nothing.

    job      waiting → ready             all needs done
             waiting → skipped           a need failed, was quarantined or skipped
             ready → active → done       done: compare-and-set on accepted_attempt
             active → ready              its attempt is suspect, or ended without a charge or under budget
             active → failed             an error that would come again
             active | ready → quarantined
             failed | quarantined → ready, skipped → waiting      a retry, or a new study that lists it
             quarantined → done          a complete late result; its skipped dependents → waiting
    run      offered → claimed → closed
    attempt  offered → running → delivering → accepted
             running | delivering → suspect → running | delivering | ended(lost)
             any live one → ended(reason);   ended(lost | cancelled) → accepted, while its job is not done
    study    running ↔ paused;   running | paused → cancelled → running;   running → ended → running (a retry)
    artifact whole → doomed → gone;   doomed → whole: sent again
    worker   active ↔ paused ↔ draining;   any → removed
"""

from jsm_queue.lifecycle.attempts import accept, check_session, checkpoint, claim, end, offer
from jsm_queue.lifecycle.files import doom, forget, forget_places, know, touch
from jsm_queue.lifecycle.sessions import heartbeat, hello, join, leave, reap, set_worker_state, shorten_leases
from jsm_queue.lifecycle.studies import (
    add_study,
    cancel_study,
    end_study,
    list_jobs,
    pause_study,
    resume_study,
    retry_study,
    write_verdict,
)

__all__ = [
    "accept",
    "add_study",
    "cancel_study",
    "check_session",
    "checkpoint",
    "claim",
    "doom",
    "end",
    "end_study",
    "forget",
    "forget_places",
    "heartbeat",
    "hello",
    "join",
    "know",
    "leave",
    "list_jobs",
    "offer",
    "pause_study",
    "reap",
    "resume_study",
    "retry_study",
    "set_worker_state",
    "shorten_leases",
    "touch",
    "write_verdict",
]
