"""What the points are called, and which deaths follow from them."""

import os
import signal
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jsm_queue import crashpoints, logs
from jsm_queue.store import events
from jsm_queue.store.database import writing
from tests.crashpoints.sweep import sample
from tests.crashpoints.trial import Point, points

JOB, FILE = "ab" * 32, "cd" * 32
NAMES = {JOB: "train n=8", FILE: "train n=8/adapter_model"}
DELIVERING = "api before commit attempt delivering *"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(crashpoints, "_folder", tmp_path)
    monkeypatch.setattr(crashpoints, "_passed", set())
    monkeypatch.setattr(crashpoints, "_role", lambda: "api")
    return tmp_path


def passed(folder: Path) -> list[str]:
    return (folder / "passed").read_text(encoding="utf-8").splitlines()


def test_a_point_is_about_the_file_it_names_or_what_is_said_or_the_job_that_is_logged(folder: Path) -> None:
    with logs.about(job=JOB):
        with crashpoints.around("line"):
            pass
        crashpoints.reach(f"before rename {FILE}")
        with crashpoints.within("train a n=8"):
            crashpoints.reach("before POST runs/claim")
    crashpoints.reach("before line")
    crashpoints.reach("before line")
    assert passed(folder) == [
        "api before line abababab",
        "api after line abababab",
        "api before rename cdcdcdcd",
        "api before POST runs/claim train a n=8",
        "api before line",
    ]


def test_a_block_that_raises_has_no_after(folder: Path) -> None:
    with pytest.raises(OSError), crashpoints.around("ring"):
        raise OSError
    assert passed(folder) == ["api before ring"]


def test_a_commit_is_called_by_its_first_event_or_by_who_opened_it(folder: Path, engine: Engine) -> None:
    def beat() -> None:
        with writing(engine):
            pass

    beat()
    with writing(engine) as session:
        events.log(session, 1.0, "job done", job=JOB)
        events.log(session, 1.0, "job ready", job=FILE)
    with pytest.raises(OSError), writing(engine):
        raise OSError
    names = [name for name in passed(folder) if "schema" not in name]
    assert names == [
        "api before commit beat",
        "api after commit beat",
        "api before commit job done abababab +1",
        "api after commit job done abababab +1",
    ]


def test_one_dies_once_at_a_point_that_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(crashpoints.os, "kill", lambda pid, number: killed.append((pid, number)))
    monkeypatch.setattr(crashpoints, "_wanted", ("api before ring *", "api after ring x"))
    for point in ("before ring a", "before ring b", "after ring a"):
        crashpoints.reach(point)
    assert killed == [(os.getpid(), signal.SIGKILL)]
    assert (folder / crashpoints.marker("api before ring *")).exists()
    (folder / "victim").write_text("4711", encoding="utf-8")
    crashpoints.reach("after ring x")
    assert killed[1:] == [(4711, signal.SIGKILL)]


def test_without_a_folder_nothing_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with crashpoints.around("ring"):
        crashpoints.reach("before ring")
    assert list(tmp_path.iterdir()) == []


def test_deaths_follow_from_the_points_that_are_passed() -> None:
    found = points(
        [
            "api before commit attempt delivering abababab",
            "api before ring abababab",
            "agent amid download cdcdcdcd",
            "agent amid upload cdcdcdcd",
            "api before commit attempt delivering 12121212",
        ],
        NAMES,
    )
    assert {(point.name, point.at, point.victim, point.database) for point in found} == {
        (DELIVERING, DELIVERING, "api", "sqlite"),
        ("api before ring train n=8", "api before ring abababab", "api", "sqlite"),
        ("agent amid upload train n=8/adapter_model", "agent amid upload cdcdcdcd", "agent", "sqlite"),
        ("valkey at api before ring train n=8", "api before ring abababab", "valkey", "sqlite"),
        (f"postgres: {DELIVERING}", DELIVERING, "api", "postgres"),
    }
    assert len(found) == 5


def test_a_sample_has_every_kind_of_point() -> None:
    every = [Point(f"{at} {i}", at, "api") for at in ("api before commit x", "api after ring x") for i in range(9)]
    assert [point.group for point in sample(every, 0)] == ["sqlite api api commit", "sqlite api api ring"]
    assert sample(every, 0) == sample(every[::-1], 0)
