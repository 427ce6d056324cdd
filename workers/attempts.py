"""One delivery of a bell, from claim to a free slot: claim → fetch → run → outbox."""

import contextlib
import errno
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsm_queue import logs
from jsm_queue.broker import AttemptEnded
from jsm_queue.crashpoints import within
from jsm_queue.errors import AuthError, ConflictError, GoneError, JsmError
from jsm_queue.kinds import KINDS, BaseRef
from jsm_queue.protocol import Bell, ClaimReply, ClaimRequest, EndRequest, Grant
from workers.board import LEFT, Board, Ended, Held
from workers.cache import Cache
from workers.checkpointfolder import Checkpoint
from workers.checkpoints import Checkpoints
from workers.client import Client, Stopped, patiently
from workers.delivery import Delivery
from workers.lines import EventLine, JobLine
from workers.logstream import LogStream
from workers.outbox import Outbox
from workers.session import Session
from workers.slots import Slot
from workers.threads import OnGone

FREE_DISK = "Free some, or let the cache be smaller: JSM_CACHE_BYTES"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempts:
    """What a bell sets in motion. `handle` runs in a Celery thread, as many at once as there are slots.

    `cores`: the machine's; `provenance`: what this machine adds to a result's.
    """

    home: Path
    client: Client
    session: Session
    board: Board
    slots: Mapping[int, Slot]
    cache: Cache
    outbox: Outbox
    delivery: Delivery
    checkpoints: Checkpoints
    logstream: LogStream
    cores: int
    provenance: dict[str, Any]
    on_gone: OnGone

    def handle(self, kind: str, bell: Bell, delivery: str) -> str:
        """Claim what the bell rings for and run it.

        Returns a word for Flower; raises AttemptEnded without a result.
        """
        with logs.about(study=bell.study):
            return self._handle(bell, delivery)

    def _handle(self, bell: Bell, delivery: str) -> str:
        try:
            claim = self._claim(bell, delivery)
        except Stopped:
            return "left"
        except (GoneError, AuthError) as error:
            self.on_gone(error)
            return "left"
        except JsmError as error:
            logger.info("run %s: dropped: %s", bell.run, error.message)
            return "dropped"
        if not self.board.occupy(claim.slot, bell.run):
            for grant in claim.attempts:
                self._give_back(grant, f"slot {claim.slot} is not free")
            return "dropped"
        slot = self.slots[claim.slot]
        try:
            ends = [self._attempt(grant, slot, bell) for grant in claim.attempts]
        finally:
            self.board.release(slot.plan.idx, slot.warm_base)
        for ended in filter(None, ends):
            raise AttemptEnded(f"{ended.reason}: {ended.message}")
        return "done"

    def _give_back(self, grant: Grant, why: str) -> None:
        """What this worker neither holds nor can run is for another. A message that came twice ends nothing."""
        if not self.board.holds(grant.attempt):
            self.delivery.end(grant.attempt, EndRequest(reason="released", message=why))

    def _claim(self, bell: Bell, delivery: str) -> ClaimReply:
        def claim() -> ClaimReply:
            request = ClaimRequest(boot_id=self.session.boot_id, delivery=delivery)
            try:
                with within(bell.label):
                    return self.client.post(f"/v1/runs/{bell.run}/claim", request, ClaimReply)
            except GoneError as error:
                if self.session.is_current(request.boot_id):
                    raise
                raise ConflictError(error.message) from error  # the store was restored: its offers are void

        return patiently(
            claim,
            self.board.leaving,
            lambda reason: logger.warning("run %s waits for the api (%s); trying on", bell.run, reason),
        )

    def _attempt(self, grant: Grant, slot: Slot, bell: Bell) -> Ended | None:
        with logs.about(job=grant.job, attempt=grant.attempt, study=bell.study):
            held = self.board.begin(grant.attempt, slot.plan.idx)
            if held is None:
                self._give_back(grant, LEFT)
                return None
            started = time.monotonic()
            logger.info("slot %d: %s begins (%s)", slot.plan.idx, grant.kind, bell.label)
            ended = self._released(self._execute(grant, slot, held, bell), held)
            how = f"{ended.reason} ({ended.message})" if ended else "complete"
            logger.info("slot %d: %s is %s after %.1f s", slot.plan.idx, grant.kind, how, time.monotonic() - started)
            self.logstream.finish(grant.attempt)
            self._hand_over(grant, ended)
            return ended

    def _hand_over(self, grant: Grant, ended: Ended | None) -> None:
        if ended is None:
            self.checkpoints.finish(grant.attempt, None)
            self.delivery.result(grant.attempt)
            return
        message, log_tail = ended.message[:4000], logs.masked(ended.log_tail[-20_000:])
        end = EndRequest(reason=ended.reason, message=message, log_tail=log_tail)
        if ended.reason == "released":
            self.checkpoints.release(grant.attempt, end)
        else:
            self.checkpoints.finish(grant.attempt, ended.reason)
            self.delivery.end(grant.attempt, end)
        self.outbox.clear(grant.attempt)

    def _released(self, ended: Ended | None, held: Held) -> Ended | None:
        """What ends because it is to give way is no fault of the job, and is for another worker at once.

        A crash counts as that too: who ends a service may signal its runners with it.
        """
        if ended and ended.reason in ("cancelled", "crashed") and held.wish == "release":
            return Ended("released", held.why, ended.log_tail)
        return ended

    def _execute(self, grant: Grant, slot: Slot, held: Held, bell: Bell) -> Ended | None:
        try:
            folder = self.outbox.begin(grant.attempt)
            base = base_of(grant.params)
            resume = self._fetch(grant, base, folder, held)
            held.wait_out_pause()
            if held.stop.is_set():
                raise Stopped
            self.logstream.follow(grant.attempt, slot.log, slot.put_log_aside())
            ended = slot.run(
                self._job_line(grant, slot, folder, bell.study, resume),
                base.key if base else None,
                KINDS[grant.kind].stall_s,
                held,
                lambda event: self._note(event, grant),
            )
            if not self.outbox.is_finished(grant.attempt):
                return ended
            # Also when the runner died or was stopped just after.
            with contextlib.suppress(OSError):  # another program holds a file of it; delivery tries again
                self.outbox.put(grant.attempt)
            return None
        except Stopped:
            return held.ended()
        except (GoneError, AuthError) as error:
            self.on_gone(error)
            return Ended("cancelled", str(error))
        except JsmError as error:  # of a file that cannot be had: it may be had elsewhere, or later
            return Ended("crashed", str(error))
        except OSError as error:
            if error.errno == errno.ENOSPC:
                return Ended("disk", f"the disk at {self.home} is full ({error.strerror}). {FREE_DISK}")
            logger.exception("the attempt's files")
            return Ended("crashed", f"{type(error).__name__}: {error}")
        except Exception as error:
            logger.exception("the agent failed")
            return Ended("crashed", f"the agent failed: {type(error).__name__}: {error}")

    def _fetch(self, grant: Grant, base: BaseRef | None, folder: Path, held: Held) -> Checkpoint | None:
        """Lay out the inputs. Returns the checkpoint to go on from."""
        inputs = folder / "inputs"

        def fetch() -> Checkpoint | None:
            self.cache.build(grant.inputs, inputs, held.stop)
            if base and base.form == "hub":
                log = self.home / "logs" / f"hub-{base.key}.log"
                self.cache.build_hub_base(base, inputs / "base", log, held.stop)
            return self.checkpoints.begin(grant, folder, held.stop)

        inputs.mkdir()
        return patiently(
            fetch,
            held.stop,
            lambda reason: logger.warning("fetching waits (%s)", reason),
        )

    def _job_line(self, grant: Grant, slot: Slot, folder: Path, study: str, resume: Checkpoint | None) -> JobLine:
        gpu = slot.plan.kind == "gpu"
        return JobLine(
            attempt=grant.attempt,
            job=grant.job,
            study=study,
            kind=grant.kind,
            params=grant.params,
            inputs=folder / "inputs",
            folder=folder / "out",
            device="cuda:0" if gpu else "cpu",  # the runner sees its slot's GPU alone
            threads=self.cores if grant.kind == "latency" else slot.plan.threads,  # it has the machine to itself
            provenance=self.provenance | {"slot": slot.plan.device},
            checkpoints=self.checkpoints.folder(grant.job),
            charges=grant.charges,
            resume=resume.path if resume else None,
            position=resume.position if resume else 0,
            ooms=grant.ooms,
        )

    def _note(self, event: EventLine, grant: Grant) -> None:
        if event.event == "progress":
            self.board.progress(event.attempt, event.position, event.total, event.metrics)
        elif event.event == "paused":
            self.board.stands(event.attempt)
        elif event.event == "checkpoint" and event.path:
            self.checkpoints.made(event.attempt, event.position, event.path, grant.charges)


def base_of(params: dict[str, Any]) -> BaseRef | None:
    """The base model that a job's parameters name, if they do."""
    base = params.get("base")
    return BaseRef.model_validate(base) if base else None
