"""Gives the machine back to its owner: what each slot shall do, from what can be read, and the thread that says so.

Two levels. *pause*: what runs stands still and keeps its memory, for what passes by itself. *release*: it is saved,
its process ends, the VRAM is empty, for what needs the machine. A slot gives way at once, and comes back when the
reason has been gone for a quiet time. What is unknown is no reason. docs/courtesy.md is this for owners.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from jsm_queue import hours, yielding
from jsm_queue.hours import Span
from jsm_queue.settings import Settings
from workers import owner, threads
from workers.hardware import SlotPlan
from workers.owner import GpuReading, Other, Owner, Readings
from workers.threads import OnGone

logger = logging.getLogger(__name__)

POLL_S = 0.3  # between two looks; what is dear is read less often
WORD_S = 0.1  # between two looks at whether the owner has said something
SUSTAINED_S = 3.0  # as long a GPU must be busy, or full, where that alone says that it is wanted
BUSY_PERCENT = 40  # of the last second: a desktop that is used, or a film, stays below
FULL_SHARE = 0.5  # of a GPU's memory, in programs none of which is large
COOL_BY = 10  # degrees below the limit before a hot GPU goes on
AT_ONCE = ("asked", "hours", "active")  # reasons that end when their time is over: no quiet time comes after them

DESKTOP = frozenset(
    (
        *("xorg", "xwayland", "gnome-shell", "kwin_wayland", "kwin_x11", "plasmashell", "cinnamon", "xfwm4", "sway"),
        *("hyprland", "compiz", "marco", "mutter", "budgie-wm", "gnome-session-binary", "nautilus", "dolphin"),
        *("dwm", "explorer", "csrss", "searchhost", "startmenuexperiencehost", "shellexperiencehost", "textinputhost"),
        *("applicationframehost", "systemsettings", "lockapp", "widgets", "logonui", "nvidia overlay", "nvidia share"),
        *("nvcontainer", "nvdisplay.container", "nvidia app", "windowsterminal", "windowserver"),
        *("firefox", "chrome", "chromium", "msedge", "msedgewebview2", "brave", "opera", "vivaldi", "safari"),
        *("discord", "steam", "steamwebhelper", "epicgameslauncher", "slack", "ms-teams", "spotify", "code"),
    )
)
"""Programs that always hold some VRAM: what they hold is no reason by itself."""

Wish = Literal["run", "pause", "release"]
Cause = Literal["none", "asked", "hours", "battery", "program", "full_screen", "active", "other", "busy", "hot"]
RANK: dict[Wish, int] = {"run": 0, "pause": 1, "release": 2}
ASKED = "`jsm worker yield` asked for it"


class Board(Protocol):
    """Where a slot's wish is told: `workers.board.Board`."""

    @property
    def leaving(self) -> threading.Event:
        """Set when the agent ends."""
        ...

    def owner_wishes(self, slot: int, wish: Wish, why: str) -> None:
        """From now on the owner wants this of the slot."""
        ...


@dataclass(frozen=True)
class Rules:
    """When to give way, as the settings say. Times in seconds, memory in bytes, heat in degrees Celsius (0: never).

    `only_asked`: to the owner's word alone.
    """

    only_asked: bool = False
    programs: frozenset[str] = frozenset()
    hours: tuple[Span, ...] = ()
    active: Literal["ignore", "pause", "release"] = "ignore"
    away_s: float = 300.0
    quiet_s: float = 60.0
    hot: int = 90
    memory: int = 500_000_000


@dataclass(frozen=True)
class Standing:
    """What a slot shall do and why. `loud_since`, `quiet_since`: since when its GPU is busy, or its reason gone."""

    wish: Wish = "run"
    why: str = ""
    cause: Cause = "none"
    loud_since: float | None = None
    quiet_since: float | None = None


Reason = tuple[Cause, Wish, str]


def rules_of(config: Settings) -> Rules:
    """The settings' rules."""
    if not config.courtesy:
        return Rules(only_asked=True)
    return Rules(
        programs=frozenset(name for part in config.courtesy_programs.split(",") if (name := owner.plain(part))),
        hours=hours.parse(config.courtesy_hours),
        active=config.courtesy_user_active,
        away_s=config.courtesy_away_s,
        quiet_s=config.courtesy_quiet_s,
        hot=config.courtesy_hot,
        memory=config.courtesy_vram_bytes,
    )


# ---- decisions ---------------------------------------------------------------------------------------------


def decide(
    slots: Sequence[SlotPlan], readings: Readings, rules: Rules, state: Mapping[int, Standing], now: float
) -> dict[int, Standing]:
    """Each slot's standing at `now`, seconds of a clock that only goes forward, from the one before. Pure."""
    return {slot.idx: _stand(slot, readings, rules, state.get(slot.idx, Standing()), now) for slot in slots}


def _stand(slot: SlotPlan, readings: Readings, rules: Rules, before: Standing, now: float) -> Standing:
    if rules.only_asked:
        readings = Readings(readings.clock, readings.asked)
    gpu = readings.gpus.get(slot.uuid) if slot.uuid else None
    loud = _loud(gpu)
    loud_since = (now if before.loud_since is None else before.loud_since) if loud else None
    sustained = loud if loud_since is not None and now - loud_since >= SUSTAINED_S else None
    reasons = [*machine_reasons(readings, rules), *gpu_reasons(gpu, sustained, rules, before.cause == "hot")]
    nothing: Reason = ("none", "run", "")
    cause, wish, why = max(reasons, key=lambda reason: RANK[reason[1]], default=nothing)
    return replace(_settle(before, Standing(wish, why, cause), rules.quiet_s, now), loud_since=loud_since)


def _settle(before: Standing, after: Standing, quiet_s: float, now: float) -> Standing:
    """Give way at once; go back towards `run` only when the stronger wish has been gone for the quiet time."""
    if RANK[after.wish] >= RANK[before.wish] or before.cause in AT_ONCE:
        return after
    quiet_since = now if before.quiet_since is None else before.quiet_since
    return after if now - quiet_since >= quiet_s else replace(before, quiet_since=quiet_since)


def machine_reasons(readings: Readings, rules: Rules) -> Iterator[Reason]:
    """Why the whole machine shall give way, CPU slots too; the most explicit first."""
    if readings.asked:
        until = readings.asked.until
        yield "asked", "release", ASKED if until is None else f"{ASKED} until {_time(until)}"
    if not hours.is_open(rules.hours, readings.clock):
        yield "hours", "release", "outside its hours"
    if readings.on_battery:
        yield "battery", "release", "on battery"
    if running := sorted(rules.programs & (readings.programs or frozenset())):
        yield "program", "release", f"{running[0]} runs"
    if readings.full_screen:
        yield "full_screen", "release", "a program fills the screen"
    if rules.active != "ignore" and readings.idle_s is not None and readings.idle_s < rules.away_s:
        yield "active", rules.active, "its owner is at it"


def gpu_reasons(gpu: GpuReading | None, sustained: str | None, rules: Rules, was_hot: bool) -> Iterator[Reason]:
    """Why one GPU shall be given back. `sustained`: that it is busy or full for a while already, in words."""
    if gpu is None:
        return
    counted = [other for other in gpu.others or () if other.memory is not None and other.name not in DESKTOP]
    largest = max(counted, key=lambda other: other.memory or 0, default=None)
    if largest and (largest.memory or 0) >= rules.memory:
        yield "other", "release", f"{largest.name} holds {_gb(largest.memory or 0)} of VRAM"
    if sustained:
        yield "busy", "release", sustained
    limit = rules.hot - (COOL_BY if was_hot else 0)
    if rules.hot and gpu.temperature is not None and gpu.temperature >= limit:
        yield "hot", "pause", f"the GPU has {gpu.temperature} °C"


def _loud(gpu: GpuReading | None) -> str | None:
    """What says, if it goes on, that others want the GPU."""
    if gpu and gpu.others_busy is not None and gpu.others_busy >= BUSY_PERCENT:
        return "other programs keep the GPU busy"
    if gpu and gpu.others_memory is not None and gpu.total and gpu.others_memory >= FULL_SHARE * gpu.total:
        return f"other programs hold {_gb(gpu.others_memory)} of {_gb(gpu.total)} VRAM"
    return None


def words(readings: Readings, rules: Rules, slots: Sequence[SlotPlan]) -> dict[str, str | None]:
    """For people: what is looked at → what is known of it, None where nothing is."""
    asked, programs = readings.asked, sorted(rules.programs & (readings.programs or frozenset()))
    running = f"of those listed: {', '.join(programs) or 'none'}"
    found = {
        "asked to give way": "no" if asked is None else f"until {_time(asked.until)}" if asked.until else "until told",
        "hours": "inside" if hours.is_open(rules.hours, readings.clock) else "outside",
        "programs": None if readings.programs is None else running,
        "full screen": _yes_no(readings.full_screen),
        "on battery": _yes_no(readings.on_battery),
        "user": None if readings.idle_s is None else f"idle for {readings.idle_s:.0f} s",
    }
    for slot in slots:
        found |= _gpu_words(slot, readings.gpus.get(slot.uuid, GpuReading()))
    return found


def _gpu_words(slot: SlotPlan, gpu: GpuReading) -> dict[str, str | None]:
    others = None if gpu.others is None else [_other_words(other) for other in gpu.others]
    return {
        f"{slot.device} other programs": None if others is None else ", ".join(others) or "none",
        f"{slot.device} VRAM of others": None if gpu.others_memory is None else _gb(gpu.others_memory),
        f"{slot.device} busy with others": None if gpu.others_busy is None else f"{gpu.others_busy} %",
        f"{slot.device} temperature": None if gpu.temperature is None else f"{gpu.temperature} °C",
    }


def _other_words(other: Other) -> str:
    held = "unknown VRAM" if other.memory is None else _gb(other.memory)
    return f"{other.name} ({held}{', of the desktop' if other.name in DESKTOP else ''})"


def _yes_no(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _time(clock: float) -> str:
    at = datetime.fromtimestamp(clock)
    return f"{at:%H:%M}" if at.date() == datetime.now().date() else f"{at:%Y-%m-%d %H:%M}"


# ---- the thread --------------------------------------------------------------------------------------------


class Watch:
    """Looks, decides, and tells the board what changed; `<home>/courtesy.json` tells people.

    `vacate(slot)` ends a runner that is warm, if nothing runs on the slot; called as long as it is to be released.
    """

    def __init__(
        self, home: Path, slots: Sequence[SlotPlan], board: Board, rules: Rules, vacate: Callable[[int], None]
    ) -> None:
        self._home, self._slots, self._board, self._rules = home, slots, board, rules
        self._vacate = vacate
        self._owner = watched(home, slots, rules, os.getpid())
        self._state: dict[int, Standing] = {}
        self._blind = False  # said once

    def start(self, on_gone: OnGone) -> None:
        """Look once, so that nothing begins that must end at once, then in a thread until the agent leaves."""
        self.look()
        threads.start("courtesy", self._run, on_gone)

    def _run(self) -> None:
        word, due = self._has_word(), 0.0
        while not self._board.leaving.wait(WORD_S):
            if (said := self._has_word()) != word or time.monotonic() >= due:
                word, due = said, time.monotonic() + POLL_S
                self.look()

    def _has_word(self) -> bool:
        return (self._home / "yield.json").exists()

    def look(self) -> None:
        """Once."""
        now = time.monotonic()
        before, self._state = self._state, decide(self._slots, self._read(now), self._rules, self._state, now)
        changed = [idx for idx, standing in self._state.items() if _told(standing) != _told(before.get(idx))]
        for idx in changed:
            self._tell(idx, self._state[idx], idx in before)
        for idx, standing in self._state.items():
            if standing.wish == "release":
                self._vacate(idx)
        if changed:
            self._note()

    def _read(self, now: float) -> Readings:
        """What cannot be read stops no work, whatever a driver answers; the owner's word counts still."""
        try:
            return self._owner.read(now)
        except Exception:
            if not self._blind:
                logger.exception("what the owner does cannot be read")
            self._blind = True
            return Readings(datetime.now(), yielding.read(self._home))

    def _tell(self, slot: int, standing: Standing, known: bool) -> None:
        if standing.wish != "run" or known:
            logger.info("slot %d: %s%s", slot, standing.wish, f", {standing.why}" if standing.why else "")
            self._board.owner_wishes(slot, standing.wish, standing.why)

    def _note(self) -> None:
        slots = {str(idx): {"wish": each.wish, "why": each.why} for idx, each in self._state.items()}
        try:
            yielding.note(self._home, slots)
        except OSError as error:  # a full disk hides nothing but the words
            logger.warning("courtesy.json cannot be written: %s", error.strerror or error)


def watched(home: Path, slots: Sequence[SlotPlan], rules: Rules, root: int) -> Owner:
    """What these rules need to know of the owner."""
    gpus = {slot.idx: slot.uuid for slot in slots if slot.uuid and not rules.only_asked}
    return Owner(home, gpus, root, programs=bool(rules.programs), idle=rules.active != "ignore")


def _told(standing: Standing | None) -> tuple[Wish, Cause] | None:
    """What of a standing is news; a degree more is none."""
    return (standing.wish, standing.cause) if standing else None
