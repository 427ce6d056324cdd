"""Tiny bases, examples, and works as the runner hands them over."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jsm_queue.canonical import file_hash
from jsm_queue.data.examples import Example, write_examples
from jsm_queue.kinds import BaseRef, Params, ScoreParams, TrainParams
from jsm_queue.spec import TrainingSpec
from workers.engine import bases
from workers.gguf import tiny
from workers.work import Device, Work

THINGS = ["堤防", "ダム", "砂防堰堤", "水門", "護岸", "床止め"]


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_base(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="session")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_base(tmp_path_factory.mktemp("qwen2"), "qwen2")


@pytest.fixture(autouse=True)
def _no_base_kept():
    yield
    bases.forget()


def examples(n: int) -> list[Example]:
    """Questions of different lengths, in two groups."""
    return [
        Example(
            id=f"e{i}",
            question=f"{THINGS[i % 6]}は何を{'少し' * (i % 4)}防ぎますか。",
            answer=f"{THINGS[(i + 1) % 6]}{'と河川' * (i % 3)}です。",
            key_facts=[[THINGS[(i + 1) % 6]]],
            stratum="taught" if i % 2 else "unseen",
            relation=f"r{i % 2}",
        )
        for i in range(n)
    ]


def training(**changes: object) -> TrainingSpec:
    return TrainingSpec.model_validate({"quantized": False, "r": 4, "alpha": 8, "lr": 1e-2, "batch": 4} | changes)


def ref(folder: Path) -> BaseRef:
    return BaseRef(form="folder", files={path.name: file_hash(path) for path in folder.iterdir()})


@pytest.fixture
def make_work(tmp_path: Path) -> Callable[..., Work]:
    """work(base folder, params, adapter=None): its inputs are laid out as the agent lays them out."""

    def make(base: Path, params: Params, adapter: Path | None = None, name: str = "work") -> Work:
        inputs, folder = tmp_path / name / "inputs", tmp_path / name / "out"
        (inputs / "dataset").mkdir(parents=True)
        folder.mkdir()
        for split in ("train", "validation", "test"):
            write_examples(inputs / "dataset" / f"{split}.jsonl", examples(10))
        (inputs / "base").symlink_to(base)
        if adapter:
            (inputs / "adapter").symlink_to(adapter)
        return Work(params, inputs, folder, Device("cpu", 1), lambda position, total, metrics: None)

    return make


def train_params(base: Path, n: int = 8, seed: int = 1, **changes: object) -> TrainParams:
    return TrainParams(base=ref(base), n=n, seed=seed, training=training(**changes), system_prompt=None)


def score_params(base: Path, quantized: bool = False, max_length: int = 1024) -> ScoreParams:
    return ScoreParams(base=ref(base), split="test", quantized=quantized, max_length=max_length, system_prompt=None)


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
