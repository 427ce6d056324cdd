"""The toy study of eight jobs, a pool for it, and what must come of it whatever dies."""

import hashlib
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from sqlmodel import Session, col, select

from jsm_queue import processes
from jsm_queue.canonical import canonical_json, file_hash
from jsm_queue.cli.client import upload
from jsm_queue.errors import JsmError
from jsm_queue.kinds import BaseRef, FileRef, Inputs
from jsm_queue.spec import StudySpec, parse_spec
from jsm_queue.store import tables as t
from jsm_queue.store.database import open_store, reading
from tests.pool import Pool

LEAVES = ("pairs.jsonl", "config.json", "model.safetensors")
_opening = threading.Lock()  # Alembic brings one store after the other to this version's schema


@dataclass(frozen=True)
class Toy:
    """The study's spec and inputs, its files by their hash, and a home with an empty store to begin from."""

    spec: StudySpec
    inputs: Inputs
    files: dict[str, Path]
    home: Path


def make(folder: Path) -> Toy:
    """Write the toy study's files."""
    stages = {"scale": {"base": "a", "sizes": [8, 16], "seeds": [1]}, "bases": None, "quantization": None}
    bases = [{"name": "a", "source": "./a"}]
    spec = parse_spec({"name": "toy", "data": {"source": LEAVES[0]}, "bases": bases, "stages": stages})
    shas = {}
    for name in LEAVES:
        (folder / name).write_text(name * 100, encoding="utf-8")
        shas[name] = file_hash(folder / name)
    base = BaseRef(form="folder", files={name: shas[name] for name in LEAVES[1:]})
    inputs = Inputs(source=FileRef(sha=shas[LEAVES[0]], suffix=".jsonl"), bases={"a": base})
    open_store(f"sqlite:///{(folder / 'home' / 'store.sqlite').as_posix()}").dispose()
    return Toy(spec, inputs, {sha: folder / name for name, sha in shas.items()}, folder / "home")


class ToyPool(Pool):
    """A pool with toy kinds that starts again whatever dies, as a supervisor does. `deaths`: part → how often."""

    def __init__(self, toy: Toy, home: Path, environment: dict[str, str]) -> None:
        shutil.copytree(toy.home, home, dirs_exist_ok=True)
        self.toy = toy
        self.deaths: dict[str, int] = {}
        with _opening:
            super().__init__(home, **{"JSM_OFFER_S": "2", "JSM_TICK_S": "0.5"} | environment)

    def start_agent(self, name: str = "agent", **environment: str) -> processes.Process:
        """Start the toy agent; again with the same invite, as a supervisor does."""
        home = self.home / name
        argv = ["-m", "tests.crashpoints.agent", "--home", str(home), "--api", self.url, "--name", name]
        argv += ["--invite", self.invite]
        return self.start(name, argv, **environment)

    def close(self) -> None:
        """End everything at once; a runner ends with its agent, and nobody waits for it."""
        for name in list(self.parts):
            self.kill(name)
        super().close()

    def tend(self) -> None:
        """Start again what died."""
        start = {"valkey": self.start_valkey, "api": self.start_api, "agent": self.start_agent}
        for name, process in list(self.parts.items()):
            if process.poll() is not None:
                self.deaths[name] = self.deaths.get(name, 0) + 1
                start[name]()

    def is_healthy(self) -> bool:
        """Whether the api answers."""
        try:
            return self.http.get("/healthz").is_success
        except httpx.TransportError:
            return False

    def submitted(self) -> str | None:
        """The study's id; None when the api was away meanwhile, and somebody has to submit again."""
        body = {"spec": self.toy.spec.model_dump(mode="json"), "inputs": self.toy.inputs.model_dump(mode="json")}
        try:
            for sha, file in self.toy.files.items():
                upload(self.http, sha, file)
            return self.http.post("/v1/studies", json=body).raise_for_status().json()["id"]
        except (httpx.TransportError, JsmError):
            return None

    def is_over(self, study: str) -> bool:
        """Whether the study ended and nothing is under way any more."""
        with reading(self.store) as session:
            row = session.get(t.Study, study)
            over = row is not None and row.state == "ended"
            return over and not _under_way(session) and not self.leftovers()

    def leftovers(self) -> list[str]:
        """What an agent has in work or to deliver."""
        return [str(path) for folder in ("work", "outbox") for path in (self.home / "agent" / folder).glob("*")]


def _under_way(session: Session) -> list[str]:
    live = session.exec(select(t.Attempt).where(col(t.Attempt.state).in_(t.LIVE))).all()
    runs = session.exec(select(t.Run).where(t.Run.state != "closed")).all()
    return [f"attempt {a.id} is {a.state}" for a in live] + [f"run {r.id} is {r.state}" for r in runs]


def outcome(pool: ToyPool, study: str) -> dict[str, Any]:
    """What no death may change: jobs, records, metrics, files, and the bytes of the decisions."""
    with reading(pool.store) as session:
        jobs = session.exec(select(t.Job)).all()
        verdicts = session.exec(select(t.VerdictRow).where(t.VerdictRow.study == study)).all()
        return {
            "jobs": sorted((job.id, job.kind, job.state) for job in jobs),
            "records": sorted((r.job, r.item, r.name, r.value) for r in session.exec(select(t.Record))),
            "metrics": sorted((m.job, m.name, m.value) for m in session.exec(select(t.Metric))),
            "files": sorted((ref.job, ref.role, ref.sha) for ref in session.exec(select(t.ArtifactRef))),
            "decisions": sorted((v.stage, v.look, canonical_json(v.decision)) for v in verdicts),
        }


def problems(pool: ToyPool, study: str, calm: dict[str, Any] | None) -> list[str]:
    """What is not as it must be after the study's end."""
    found = outcome(pool, study)
    wrong = [
        f"{part} differ: {value} instead of {calm[part]}"
        for part, value in found.items()
        if calm and value != calm[part]
    ]
    wrong += [f"job {job} is {state}" for job, _, state in found["jobs"] if state != "done"]
    with reading(pool.store) as session:
        wrong += _under_way(session)
        accepted = session.exec(select(t.Attempt.job).where(t.Attempt.state == "accepted")).all()
        known = {artifact.sha: artifact.size for artifact in session.exec(select(t.Artifact))}
    if sorted(accepted) != [job for job, _, _ in found["jobs"]]:
        wrong.append(f"accepted attempts are of {sorted(accepted)}")
    wrong += [f"{path} is left" for path in pool.leftovers()]
    wrong += _broken_files(pool.home / "artifacts") + _broken_files(pool.home / "agent" / "cache")
    here = {file.name: file.stat().st_size for file in (pool.home / "artifacts").glob("[0-9a-f][0-9a-f]/*")}
    return wrong + ([f"the store knows {known}, there are {here}"] if known != here else [])


def _broken_files(root: Path) -> list[str]:
    """Files that count as whole and are not."""
    files = root.glob("[0-9a-f][0-9a-f]/*")
    return [f"{file} is broken" for file in files if hashlib.sha256(file.read_bytes()).hexdigest() != file.name]


def words(pool: ToyPool, study: str, toy: Toy) -> dict[str, str]:
    """Hash → what people call the job or the file, e.g. "train n=8" and "train n=8/adapter_model"."""
    with reading(pool.store) as session:
        jobs = {job.id: job for job in session.exec(select(t.Job))}
        listed = session.exec(select(t.StudyJob).where(t.StudyJob.study == study)).all()
        refs = session.exec(select(t.ArtifactRef)).all()
    found = {sha: file.name for sha, file in toy.files.items()}
    for row in listed:
        cell = "" if not row.cell else f"n={row.n}" if row.n else "untrained"
        found[row.job] = " ".join(filter(None, [jobs[row.job].kind, cell, jobs[row.job].params.get("split", "")]))
    return found | {ref.sha: f"{found[ref.job]}/{ref.role}" for ref in refs}
