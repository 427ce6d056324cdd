"""When a slot gives way to the machine's owner, and when it comes back."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from jsm_queue import hours, processes, yielding
from jsm_queue.settings import Settings
from jsm_queue.yielding import Yield
from tests.unit.workers.fakes import PROGRAM, held, job
from tests.waiting import wait_for
from workers import courtesy, slots
from workers.agent import Agent
from workers.courtesy import Rules, Standing, Watch, decide
from workers.hardware import SlotPlan
from workers.identity import Identity
from workers.owner import GpuReading, Other, Readings

GPU0, GPU1 = SlotPlan(0, "gpu", "cuda:0", 4, "GPU-a"), SlotPlan(1, "gpu", "cuda:1", 4, "GPU-b")
CPU = SlotPlan(2, "cpu", "cpu", 4)
SLOTS = [GPU0, GPU1, CPU]
NOON = datetime(2026, 6, 1, 12)
CALM = GpuReading(total=16 * 10**9, others=(), others_memory=10**9, others_busy=3, temperature=50)
QUIET = Readings(NOON, idle_s=9999, programs=frozenset({"bash"}), on_battery=False, gpus={"GPU-a": CALM, "GPU-b": CALM})
RULES = Rules(programs=frozenset({"eldenring"}), hours=hours.parse("08:00-18:00"), active="pause", quiet_s=60)
GAME = (Other("game", 3 * 10**9),)


def on_gpu0(**changes: object) -> Readings:
    return replace(QUIET, gpus={"GPU-a": replace(CALM, **changes), "GPU-b": CALM})


def wishes(readings: Readings, rules: Rules = RULES, before: Mapping[int, Standing] | None = None, now: float = 0.0):
    return {idx: each.wish for idx, each in decide(SLOTS, readings, rules, before or {}, now).items()}


ALL_RUN = {0: "run", 1: "run", 2: "run"}
ALL_GONE = dict.fromkeys(ALL_RUN, "release")


@pytest.mark.parametrize(
    ("readings", "expected", "why"),
    [
        (QUIET, ALL_RUN, ""),
        (replace(QUIET, asked=Yield(None)), ALL_GONE, "`jsm worker yield` asked for it"),
        (replace(QUIET, clock=NOON.replace(hour=19)), ALL_GONE, "outside its hours"),
        (replace(QUIET, on_battery=True), ALL_GONE, "on battery"),
        (replace(QUIET, programs=frozenset({"bash", "eldenring"})), ALL_GONE, "eldenring runs"),
        (replace(QUIET, full_screen=True), ALL_GONE, "a program fills the screen"),
        (replace(QUIET, idle_s=2.0), dict.fromkeys(ALL_RUN, "pause"), "its owner is at it"),
        (on_gpu0(others=GAME), ALL_RUN | {0: "release"}, "game holds 3.0 GB of VRAM"),
        (on_gpu0(temperature=90), ALL_RUN | {0: "pause"}, "the GPU has 90 °C"),
        (on_gpu0(temperature=95, others=GAME), ALL_RUN | {0: "release"}, "game holds 3.0 GB of VRAM"),
        (on_gpu0(temperature=89), ALL_RUN, ""),
        (on_gpu0(others=(Other("chrome", 3 * 10**9),)), ALL_RUN, ""),
        (on_gpu0(others=(Other("game", 10**8),)), ALL_RUN, ""),
        (on_gpu0(others=(Other("game", None),)), ALL_RUN, ""),
    ],
)
def test_each_reason(readings: Readings, expected: dict[int, str], why: str) -> None:
    found = decide(SLOTS, readings, RULES, {}, 0.0)
    assert {idx: each.wish for idx, each in found.items()} == expected
    assert found[0].why == why


def test_what_is_unknown_is_no_reason() -> None:
    assert wishes(Readings(NOON)) == ALL_RUN
    assert wishes(Readings(NOON, gpus={"GPU-a": GpuReading()})) == ALL_RUN


def test_a_user_who_types_stops_nothing_unless_told() -> None:
    typing = replace(QUIET, idle_s=0.5)
    assert wishes(typing, replace(RULES, active="ignore")) == ALL_RUN
    assert wishes(typing, replace(RULES, active="release")) == ALL_GONE


def test_a_machine_of_the_pool_alone_obeys_its_owners_word_only() -> None:
    rules = courtesy.rules_of(Settings(courtesy=False, courtesy_hours="00:00-01:00", courtesy_programs="bash"))
    assert wishes(replace(on_gpu0(others=GAME, temperature=99), on_battery=True), rules) == ALL_RUN
    assert wishes(replace(QUIET, asked=Yield(None)), rules) == ALL_GONE


def test_heat_may_be_ignored() -> None:
    assert wishes(on_gpu0(temperature=119), replace(RULES, hot=0)) == ALL_RUN


def run_through(steps: Sequence[tuple[float, Readings]], rules: Rules = RULES) -> list[str]:
    """Slot 0's wish after each step."""
    state: dict[int, Standing] = {}
    found = []
    for now, readings in steps:
        state = decide(SLOTS, readings, rules, state, now)
        found.append(state[0].wish)
    return found


def test_it_gives_way_at_once_and_comes_back_after_a_quiet_time() -> None:
    game = on_gpu0(others=GAME)
    steps = [(0, QUIET), (1, game), (2, QUIET), (61.9, QUIET), (62, QUIET), (63, game)]
    assert run_through(steps) == ["run", "release", "release", "release", "run", "release"]


def test_a_reason_that_comes_again_starts_the_quiet_time_anew() -> None:
    game = on_gpu0(others=GAME)
    steps = [(0, game), (1, QUIET), (50, game), (51, QUIET), (62, QUIET), (110, QUIET), (111, QUIET)]
    assert run_through(steps) == ["release"] * 6 + ["run"]


def test_a_weaker_reason_does_not_end_a_stronger_one_early() -> None:
    game, hot = on_gpu0(others=GAME), on_gpu0(temperature=95)
    assert run_through([(0, hot), (1, game), (2, hot), (62, hot)]) == ["pause", "release", "release", "pause"]


def test_heat_ends_well_below_its_limit() -> None:
    steps = [(t, on_gpu0(temperature=degrees)) for t, degrees in ((0, 91), (100, 85), (200, 81), (300, 79), (360, 79))]
    assert run_through(steps) == ["pause"] * 4 + ["run"]


@pytest.mark.parametrize(
    "reading",
    [replace(QUIET, asked=Yield(None)), replace(QUIET, clock=NOON.replace(hour=20)), replace(QUIET, idle_s=1)],
)
def test_what_has_an_end_of_its_own_needs_no_quiet_time(reading: Readings) -> None:
    assert run_through([(0, reading), (1, QUIET)])[1] == "run"


@pytest.mark.parametrize("loud", [on_gpu0(others_busy=80), on_gpu0(others_memory=9 * 10**9)])
def test_a_busy_or_full_gpu_counts_when_it_stays_so(loud: Readings) -> None:
    assert run_through([(0, loud), (2.9, loud), (3.0, loud)]) == ["run", "run", "release"]
    assert run_through([(0, loud), (2, QUIET), (3.1, loud), (6, loud)]) == ["run"] * 4


def test_the_settings_become_rules() -> None:
    config = Settings(
        courtesy_programs=" EldenRing.exe, Blender ,",
        courtesy_hours="22:00-08:00",
        courtesy_user_active="pause",
        courtesy_hot=80,
    )
    rules = courtesy.rules_of(config)
    assert rules.programs == {"eldenring", "blender"} and rules.hot == 80 and rules.active == "pause"
    assert len(rules.hours) == 1
    assert courtesy.rules_of(Settings()) == Rules()


class Told:
    """A board that notes what it is told."""

    def __init__(self) -> None:
        self.leaving = threading.Event()
        self.said: list[tuple[int, str, str]] = []

    def owner_wishes(self, slot: int, wish: courtesy.Wish, why: str) -> None:
        self.said.append((slot, wish, why))


def test_the_thread_hears_of_a_file_and_says_only_what_changed(tmp_path: Path) -> None:
    board = Told()
    vacated: list[int] = []
    watch = Watch(tmp_path, [CPU], board, Rules(), vacated.append)
    watch.start(lambda why: pytest.fail(str(why)))
    assert not board.said and not vacated, "a slot runs until somebody wishes otherwise"
    yielding.ask(tmp_path, None)
    wait_for(lambda: len(vacated) > 1, "the wish, again and again: what runs may end later", 5)
    yielding.end(tmp_path)
    wait_for(lambda: yielding.noted(tmp_path) == {"2": {"wish": "run", "why": ""}}, "its end", 5)
    board.leaving.set()
    assert board.said == [(2, "release", "`jsm worker yield` asked for it"), (2, "run", "")]


def test_a_reading_that_fails_stops_nothing_but_the_owners_word_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> Readings:
        raise ValueError("a driver's odd answer")

    monkeypatch.setattr(courtesy.Owner, "read", broken)
    board = Told()
    watch = Watch(tmp_path, [CPU], board, Rules(), lambda _: None)
    watch.look()
    watch.look()
    assert not board.said and caplog.text.count("cannot be read") == 1
    yielding.ask(tmp_path, None)
    watch.look()
    assert board.said == [(2, "release", "`jsm worker yield` asked for it")]


def test_a_warm_runner_goes_when_its_slot_is_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing runs, but the last job's process still holds memory."""
    monkeypatch.setattr(slots, "RUNNER", ("-c", PROGRAM))
    worker = Agent(tmp_path / "home", Identity("a1b2c3d4", "token", api="http://127.0.0.1:9"))
    slot = worker.slots[0]
    assert worker.board.occupy(0, "0123abcd")
    assert slot.run(job(tmp_path, "ok"), None, 60, held(), lambda _: None) is None
    worker.vacate(0)
    assert processes.find_leftover(slot.pid_file), "its run has not ended"
    worker.board.release(0, None)
    worker.vacate(0)
    assert processes.find_leftover(slot.pid_file) is None


def test_what_holds_at_the_start_is_said_before_anything_begins(tmp_path: Path) -> None:
    yielding.ask(tmp_path, 3600)
    board = Told()
    board.leaving.set()
    Watch(tmp_path, [CPU], board, Rules(), lambda _: None).start(lambda why: pytest.fail(str(why)))
    assert [(slot, wish) for slot, wish, _ in board.said] == [(2, "release")]


def test_a_yield_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yielding.ask(tmp_path, 60)
    asked = yielding.read(tmp_path)
    assert asked and asked.until
    monkeypatch.setattr(yielding.time, "time", lambda: asked.until)
    assert yielding.read(tmp_path) is None and not yielding.end(tmp_path)
    assert not (tmp_path / "yield.json").exists()


@pytest.mark.parametrize("text", ["", "{}", "nonsense", '{"until": "soon"}', '{"until": NaN}'])
def test_a_yield_that_says_nothing_sensible_holds(tmp_path: Path, text: str) -> None:
    (tmp_path / "yield.json").write_text(text, encoding="utf-8")
    assert yielding.read(tmp_path) == Yield(None)
    assert yielding.end(tmp_path) and yielding.read(tmp_path) is None
