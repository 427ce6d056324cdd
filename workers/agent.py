"""`python -m workers --home DIR [--api URL]`: a machine's place in the pool.

It joins once, says hello, and then takes messages from its own queue: each is a doorbell for a run, which it
claims from the api, runs in a slot's runner process, and delivers. This process never imports torch.

    <home>/identity.json        the worker's id and token        (identity.py)
    <home>/agent.pid            the running agent
    <home>/work, outbox         attempts under way, results to deliver   (outbox.py)
    <home>/checkpoints          what those under way can be gone on from (checkpoints.py)
    <home>/cache                files by their content           (cache.py)
    <home>/slots, logs          runners and what they say        (slots.py)

An invite may be given as `JSM_INVITE` instead of `--invite`, which every user of the machine can read.
"""

import _thread
import argparse
import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from celery.signals import worker_shutting_down

from jsm_queue import broker, logs, processes, tls
from jsm_queue.errors import DeafError, JsmError, SetupError
from jsm_queue.protocol import BrokerReply
from jsm_queue.settings import settings
from workers import hardware, identity, watchdog
from workers.attempts import Attempts
from workers.board import Board
from workers.cache import Cache
from workers.checkpoints import Checkpoints
from workers.client import Client, Stopped, patiently
from workers.courtesy import Watch, rules_of
from workers.delivery import Delivery
from workers.hub import through_api
from workers.logstream import LogStream
from workers.outbox import Outbox
from workers.session import Session
from workers.slots import Slot

logger = logging.getLogger("workers.agent")

INVITE = "JSM_INVITE"
"""The variable that may carry the invite: other users of the machine can read arguments."""


class Agent:
    """One run of this program: the parts and how they hang together."""

    def __init__(self, home: Path, who: identity.Identity) -> None:
        gpus = usable_gpus()
        machine = hardware.describe(gpus)
        plans = hardware.plan_slots(gpus, machine.cores, machine.memory_bytes, settings().cpu_slots)
        self.who, self.machine, self.plans = who, machine, plans
        self.exit_code = 0
        self.deaf, self.queue = False, ("", None)
        self.client = Client(who.api, who.token, who.ca)
        self.board = Board(plans)
        self.outbox = Outbox(home)
        self.slots = {plan.idx: Slot(plan, home) for plan in plans}
        through = through_api(who.api, who.token, who.ca, home) if settings().hub == "api" else None
        cache = Cache(home / "cache", self.client, settings().cache_bytes, through)
        self.session = Session(self.client, self.board, plans, home, self.leave, cache.holds, self.hear)
        self.delivery = Delivery(self.client, self.outbox, self.board, cache, self.leave)
        self.checkpoints = Checkpoints(home, self.client, cache, self.delivery.end, self.leave)
        self.logstream = LogStream(self.client)
        self.watch = Watch(home, plans, self.board, rules_of(settings()), self.vacate)
        self.attempts = Attempts(
            home=home,
            client=self.client,
            session=self.session,
            board=self.board,
            slots=self.slots,
            cache=cache,
            outbox=self.outbox,
            delivery=self.delivery,
            checkpoints=self.checkpoints,
            logstream=self.logstream,
            cores=machine.cores,
            provenance={
                "worker": who.name,
                "hardware_class": machine.hardware_class,
                "os": machine.os,
                "packages": machine.packages,
            },
            on_gone=self.leave,
        )

    def leave(self, why: JsmError | None = None) -> None:
        """Stop what runs and end this process soon. Safe from any thread and from a signal's handler."""
        if why is not None and not self.board.leaving.is_set():
            logger.error("leaving: %s", why)
            self.exit_code = why.exit_code
        self.board.leave()
        broker.stop_consuming(self.exit_code)

    def hear(self, unclaimed: int) -> None:
        """Leave, to start anew, once messages are sent and none arrives."""
        if watchdog.is_deaf(unclaimed, lambda: broker.answers(*self.queue)):
            self.leave(DeafError(f"{unclaimed} offers in a row did not arrive, and the queue answers"))
            self.deaf = True

    def vacate(self, slot: int) -> None:
        """End a warm runner, which keeps memory that the owner wants. Nothing begins on a slot that is kept."""
        if self.board.is_idle(slot):
            self.slots[slot].kill()

    def hello(self) -> BrokerReply:
        """Begin a session, waiting for the api as long as it takes. Returns where the broker is.

        Raises AuthError, and Stopped when told to leave meanwhile.
        """
        self.outbox.recover()
        self.watch.start(self.leave)
        stop = self.board.leaving
        chosen = self.who.broker_request
        reply = patiently(lambda: self.client.post("/v1/worker/broker", chosen, BrokerReply), stop, _away)
        held = self.outbox.attempts()
        for attempt in patiently(lambda: self.session.hello(self.machine, held), stop, _away):
            with logs.about(attempt=attempt):
                logger.info("the result is dropped: its job is done, or not of this pool")
            self.outbox.drop(attempt)
        devices = ", ".join(plan.device for plan in self.plans)
        logger.info("worker %s: hello, slots %s, %s", self.who.worker, devices, self.machine.hardware_class)
        return reply

    def work(self, place: BrokerReply) -> int:
        """Take part in the pool until told to leave.

        Returns the exit code. Raises SetupError for the broker's URL.
        """
        url, handle = self.who.broker_url(place), self.attempts.handle
        self.queue = url, place.ca
        app = broker.worker_app(url, self.who.worker, len(self.plans), handle, place.ca)
        worker_shutting_down.connect(self._on_signal, weak=False)
        self.delivery.start()
        self.checkpoints.start()
        self.logstream.start()
        self.session.start()
        try:
            broker.consume(app, f"{_slug(self.who.name)}@{self.who.worker[:8]}")
        finally:
            self.leave()
            for slot in self.slots.values():
                slot.kill()
            self.checkpoints.leave()
            self.delivery.leave()
            if not self.outbox.attempts():  # a result on this disk is worth the lease's wait: mostly we start again
                self.session.leave()
        return self.exit_code

    def _on_signal(self, **_: Any) -> None:
        # A second signal may interrupt the handler of the first: it must wait for no lock, not even for a Thread's.
        _thread.start_new_thread(self._leave_as_told, ())

    def _leave_as_told(self) -> None:
        logger.info("leaving: told by a signal")
        self.leave()


def usable_gpus() -> list[hardware.Gpu]:
    """The GPUs that the installed torch can use; says so where it cannot use those there are."""
    gpus = hardware.list_gpus()
    if gpus and hardware.torch_cuda() is None:
        names = ", ".join(gpu.name for gpu in gpus)
        logger.warning("%s: not used, because the installed torch is a CPU build", names)
        return []
    return gpus


def join(home: Path, api: str | None, invite: str | None, name: str | None) -> identity.Identity:
    """As whom this machine takes part, joining where it has not. Raises JsmError."""
    return identity.find(home, api, invite, name, tls.read_ca(settings().ca))


def start(home: Path, api: str | None, invite: str | None, name: str | None) -> int:
    """Join where needed, then take part. Returns the exit code. Raises JsmError."""
    with _alone(home) as pid_file:
        agent = Agent(home, join(home, api, invite, name))
        processes.exit_with_parent(agent.leave)
        try:
            exit_code = agent.work(agent.hello())
        except Stopped:
            return agent.exit_code
        if agent.deaf:  # where the system cannot do that, whoever started this process starts another
            pid_file.unlink(missing_ok=True)
            processes.become([sys.executable, *sys.orig_argv[1:]])
        return exit_code


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[Path]:
    """Nobody else works in this folder meanwhile. Yields the file that says who does. Raises SetupError."""
    pid_file = home / "agent.pid"
    if processes.find_leftover(pid_file):
        raise SetupError(f"A worker already runs in {home}", "Stop it, or use another --home")
    try:
        processes.write_pid_file(pid_file, os.getpid())
    except OSError as error:
        fix = "Check that it is a writable folder of yours"
        raise SetupError(f"{home} cannot be used ({error.strerror or error})", fix) from error
    try:
        yield pid_file
    finally:
        pid_file.unlink(missing_ok=True)


def _away(reason: str) -> None:
    logger.warning("waits for the api (%s); trying on", reason)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "worker"


def _as_typed(argument: str) -> str:
    """An argument in the encoding in which terminals are, also where the locale is plain C."""
    return os.fsencode(argument).decode("utf-8", "replace")


def bound_invite(arguments: Sequence[str]) -> list[str]:
    """`--invite TOKEN` as `--invite=TOKEN`: a random token may begin with "-", which argparse takes for an option."""
    done: list[str] = []
    for argument in arguments:
        if done and done[-1] == "--invite":
            done[-1] = f"--invite={argument}"
        else:
            done.append(argument)
    return done


def main() -> int:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workers", description="Take part in a pool.")
    parser.add_argument("--home", type=Path, required=True, help="the worker's own folder")
    parser.add_argument("--api", help="the api's URL; without it the one at which this worker joined")
    parser.add_argument("--invite", help="a token of `jsm worker invite`; needed at the first start, or JSM_INVITE")
    parser.add_argument("--join", action="store_true", help="only join the pool")
    parser.add_argument("--name", type=_as_typed, help="how people call this machine; without it as it calls itself")
    parser.set_defaults(invite=os.environ.pop(INVITE, None))  # runners need not know it
    given = parser.parse_args(bound_invite(sys.argv[1:]))
    try:
        logs.set_up(settings().log_format, settings().log_level)
        whole = given.home.resolve(), given.api, given.invite, given.name
        if given.join:
            join(*whole)
            return 0
        return start(*whole)
    except JsmError as error:
        logger.error("%s", error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
