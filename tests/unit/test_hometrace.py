"""The home trace in small: what becomes of the PCs' time adds up, and only what goes wrong costs any."""

import pytest

from benchmarks import hometrace
from benchmarks.homestudy import STEPS, Weekend
from benchmarks.hometrace import PCS

NEVER = 1e12
HOURS = 1.5
ALL = PCS * HOURS * 3600  # seconds


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour and a half, with a study that is longer."""
    sizes = {"base": "a", "sizes": [1000, 4000], "seeds": list(range(20))}
    monkeypatch.setitem(hometrace.SPEC["stages"], "scale", sizes)
    monkeypatch.setattr(hometrace, "HOURS", HOURS)
    monkeypatch.setattr(hometrace, "API_AWAY", (NEVER, NEVER))


def test_when_nothing_goes_wrong_all_steps_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hometrace, "FAILS_S", NEVER)
    calm = hometrace.live(1, keep=True, gap_every_s=NEVER)
    assert sum(calm.spent.values()) == pytest.approx(ALL)
    assert calm.under_way > 0
    assert calm.spent[STEPS] == pytest.approx(calm.accepted + calm.under_way)
    assert calm.goodput > 0.95


def test_failures_cost_the_more_without_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hometrace, "FAILS_S", 1800.0)
    kept, zero = (hometrace.live(1, keep, gap_every_s=NEVER) for keep in (True, False))
    assert kept.failures and zero.failures
    assert _in_vain(kept) < _in_vain(zero)
    assert sum(kept.spent.values()) < ALL  # a PC that is off has no time to give


def _in_vain(run: Weekend) -> float:
    return run.shares["steps in vain"]
