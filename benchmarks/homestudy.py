"""The study of the home trace: its jobs, how long each takes, and what came of them."""

from dataclasses import dataclass

from jsm_queue import protocol
from jsm_queue.canonical import content_hash
from jsm_queue.kinds import KINDS, BaseRef
from jsm_queue.store import tables as t

STEPS = "steps"
BASE = BaseRef(form="folder", files={"config.json": content_hash("c"), "model.safetensors": content_hash("m")})
SPEC = {
    "name": "home",
    "data": {"source": "pairs.jsonl"},
    "bases": [{"name": "a", "source": "./a"}],
    "stages": {
        "scale": {"base": "a", "sizes": list(range(1000, 5001, 100)), "seeds": list(range(20))},
        "bases": None,
        "quantization": None,
    },
}


def length_of(job: t.Job) -> float:
    """Seconds of work: a training of 1 000 examples takes ten minutes, a score two, the rest one."""
    if job.kind == "train":
        return 600.0 * job.params["n"] / 1000
    return 120.0 if job.kind == "score" else 60.0


def result_of(job: t.Job) -> protocol.ResultRequest:
    """What it delivers."""
    files = [
        protocol.ArtifactIn(role=role, sha=content_hash([job.id, role]), size=1) for role in KINDS[job.kind].outputs
    ]
    values = {"score": ("nll", "tokens", "bytes")}.get(job.kind, ())
    records = [protocol.RecordIn(item=f"q{i}", name=name, value=1 + i / 10) for i in range(3) for name in values]
    return protocol.ResultRequest(records=records, metrics={}, artifacts=files)


@dataclass(frozen=True)
class Weekend:
    """What came of it, in GPU-seconds. `spent`: what the PCs did while they were on and not their owners'; `under_way`:
    what was done by the end of jobs that were not accepted yet.
    """

    spent: dict[str, float]
    accepted: float
    under_way: float
    jobs: int
    failures: int

    @property
    def available(self) -> float:
        """Without what was still under way."""
        return sum(self.spent.values()) - self.under_way

    @property
    def goodput(self) -> float:
        """The share of what was available that ended in accepted results."""
        return self.accepted / self.available

    @property
    def shares(self) -> dict[str, float]:
        """What became of the available time: accepted, done twice, and what was no step at all."""
        steps = {"accepted": self.accepted, "steps in vain": self.spent[STEPS] - self.accepted - self.under_way}
        longest_first = sorted(self.spent.items(), key=lambda each: -each[1])
        others = {what: seconds for what, seconds in longest_first if what != STEPS}
        return {what: seconds / self.available for what, seconds in (steps | others).items()}

    @property
    def lost_per_failure(self) -> float:
        """GPU-seconds that no result came of, for whatever reason, over the failures."""
        return (self.available - self.accepted) / max(1, self.failures)
