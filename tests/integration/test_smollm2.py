"""A real model of the package index, SmolLM2-135M: a few training steps, GGUF, answers, scores."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jsm_queue.cli.resolve import resolve
from jsm_queue.data.examples import Example, write_examples
from jsm_queue.kinds import AnswerParams, ConvertParams, JudgeParams, ParityParams, ScoreParams, TrainParams
from jsm_queue.spec import DecodingSpec, JudgeSpec, TrainingSpec, read_spec
from workers.engine import bases
from workers.gguf.answers import read_answers
from workers.kinds import answer, convert, judge, parity, score, train
from workers.work import Device, Outcome, Work

pytestmark = pytest.mark.timeout(400)

ROOT = Path(__file__).parents[2]
DECODING = DecodingSpec(max_new_tokens=12, context=256)
TRAINING = TrainingSpec(r=4, alpha=8, lr=1e-2, schedule="constant", warmup=0, epochs=8, batch=2, quantized=False)
EXAMPLES = [
    Example(
        id=f"q{i}",
        question=f"What does a {thing} hold back?",
        answer=f"A {thing} holds back {held}.",
        key_facts=[[held]],
    )
    for i, (thing, held) in enumerate([("levee", "floods"), ("dam", "water"), ("sabo dam", "debris"), ("weir", "flow")])
]


@pytest.fixture
def inputs(tmp_path: Path) -> Iterator[Path]:
    spec = read_spec(ROOT / "examples" / "river" / "study.yaml")
    source = spec.base("smollm2-135m").source.removeprefix("package:").partition("/")
    package = importlib.util.find_spec(source[0])
    assert package and package.submodule_search_locations
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.gguf").symlink_to(Path(package.submodule_search_locations[0]) / source[2])
    (tmp_path / "dataset").mkdir()
    for split in ("train", "validation", "test", "bench"):
        write_examples(tmp_path / "dataset" / f"{split}.jsonl", EXAMPLES)
    yield tmp_path
    bases.forget()


def run(kind: Any, params: Any, inputs: Path, name: str) -> Outcome:
    """One job; its files lie in inputs/<name>, where the next kind's need finds them."""
    (inputs / name).mkdir()
    return kind.run(Work(params, inputs, inputs / name, Device("cpu", 2), lambda *_: None))


def test_smollm2_is_trained_converted_and_answers(inputs: Path) -> None:
    spec = read_spec(ROOT / "examples" / "river" / "study.yaml")
    ref = resolve(spec, ROOT / "examples" / "river").inputs.bases["smollm2-135m"]
    ask = ScoreParams(base=ref, split="validation", quantized=False, max_length=256, system_prompt=None)

    untrained = run(score, ask, inputs, "untrained")
    run(train, TrainParams(base=ref, n=4, seed=1, training=TRAINING, system_prompt=None), inputs, "adapter")
    trained = run(score, ask, inputs, "trained")
    run(convert, ConvertParams(base=ref, format="Q8_0"), inputs, "gguf")
    same = run(parity, ParityParams(base=ref, reference="model", prompts=2, system_prompt=None), inputs, "parity")
    run(answer, AnswerParams(split="bench", decoding=DECODING, system_prompt=None), inputs, "answers")
    judged = run(judge, JudgeParams(judge=JudgeSpec(), split="bench"), inputs, "judge")

    def nll(outcome: Outcome) -> float:
        return sum(record.value for record in outcome.records if record.name == "nll")

    assert nll(trained) < 0.5 * nll(untrained), "sixteen steps on four sentences"
    assert same.metrics["ok"] == 1
    answers = read_answers(inputs / "answers" / "answers.jsonl")
    assert [each.id for each in answers] == [each.id for each in EXAMPLES]
    assert all("holds back" in each.text for each in answers), answers
    assert judged.metrics["score"] > 1.5
