"""The training loop: its gradient, its schedule, and that it is the same twice."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jsm_queue.errors import DataError, ModelError
from workers.engine import bases, lora
from workers.engine.encoding import encode_all
from workers.engine.train import backward, rate, schedule
from workers.kinds import train
from workers.work import Work

from .conftest import examples, read_json, ref, train_params, training

TOLERANCE = 1e-6
"""Of the gradient's norm: float32 sums in another order."""


def gradient(base: bases.Base, groups: list[list[int]], count: int = 6) -> tuple[torch.Tensor, float]:
    pairs, _ = encode_all(base, examples(count), None, 1024)
    with lora.fresh(base, training(), 1) as model:
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(len(name)))
        loss = backward(base, model, [each for _, each in pairs], groups)
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), loss


def test_passes_do_not_change_the_gradient(llama: Path, make_work: Callable[..., Work]):
    base = bases.load(make_work(llama, train_params(llama)), False)
    whole, loss = gradient(base, [[0, 1, 2, 3, 4, 5]])
    for groups in ([[3], [5], [0], [1], [4], [2]], [[0, 2], [1, 3, 4, 5]]):
        split, again = gradient(base, groups)
        difference = ((split - whole).norm() / whole.norm()).item()
        assert difference < TOLERANCE, f"{groups}: {difference}"
        assert again == pytest.approx(loss, rel=1e-6)


def test_gradient_is_that_of_the_mean_over_answer_tokens(llama: Path, make_work: Callable[..., Work]):
    """Against transformers' own loss with labels, one example at a time, weighted by its answer tokens."""
    base = bases.load(make_work(llama, train_params(llama)), False)
    _, loss = gradient(base, [[0, 1, 2]], 3)
    pairs, _ = encode_all(base, examples(3), None, 1024)
    with torch.inference_mode(), lora.fresh(base, training(), 1) as model:
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(len(name)))
        sums = []
        for _, each in pairs:
            labels = [-100] * each.first + each.ids[each.first :]  # -100: no loss, as everywhere in PyTorch
            sums.append(each.answers * model(input_ids=torch.tensor([each.ids]), labels=torch.tensor([labels])).loss)
    assert loss == pytest.approx(torch.stack(sums).sum().item() / sum(each.answers for _, each in pairs), rel=1e-5)


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 9), st.integers(0, 3))
def test_every_epoch_sees_every_example_once(n: int, epochs: int, batch: int, seed: int):
    steps = schedule(n, epochs, batch, seed)
    assert len(steps) == epochs * -(-n // batch)
    flat = [i for step in steps for i in step]
    assert all(sorted(flat[start : start + n]) == list(range(n)) for start in range(0, n * epochs, n))
    assert steps == schedule(n, epochs, batch, seed)


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second = schedule(20, 2, 20, 1)
    assert first != second
    assert schedule(20, 1, 20, 2) != [first]


def test_learning_rates():
    rates = [rate(step, 20, "cosine", 0.2) for step in range(20)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(a > b for a, b in pairwise(rates[4:])) and 0 < rates[-1] < 0.02
    assert rate(12, 20, "cosine", 0.2) == pytest.approx(0.5)
    assert rate(12, 20, "linear", 0.2) == pytest.approx(0.5)
    assert rate(19, 20, "constant", 0.2) == 1.0
    assert rate(0, 1, "cosine", 0.05) == 1.0


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("quantized", [False, True])
def test_job_twice_gives_the_same_bytes(llama: Path, make_work: Callable[..., Work], quantized: bool):
    params = train_params(llama, epochs=2, dropout=0.1, quantized=quantized)
    first, again = (make_work(llama, params, name=name) for name in ("a", "b"))
    outcome = train.run(first)
    train.run(make_work(llama, train_params(llama, seed=2, quantized=quantized), name="between"))
    train.run(again)
    assert digests(first.folder) == digests(again.folder)
    assert sorted(digests(first.folder)) == ["adapter_config.json", "adapter_model.safetensors", "training_log.json"]
    other = train_params(llama, epochs=2, dropout=0.1, quantized=quantized, seed=2)
    assert digests(first.folder) != digests(_ran(make_work(llama, other, name="other")))
    assert set(outcome.metrics) == {
        *("tokens", "steps", "seconds", "tokens_per_second", "loss_first", "loss_last", "peak_bytes", "dropped")
    }


def _ran(work: Work) -> Path:
    train.run(work)
    return work.folder


def test_same_bytes_in_another_process(llama: Path, make_work: Callable[..., Work]):
    """Sets of names have another order in each process."""
    here, there = (make_work(llama, train_params(llama, epochs=1), name=name) for name in ("here", "there"))
    train.run(here)
    program = (
        "import sys; from pathlib import Path; from jsm_queue.kinds import TrainParams\n"
        "from workers.kinds import train\n"
        "from workers.work import Device, Work; inputs, folder, params = sys.argv[1:]\n"
        "params = TrainParams.model_validate_json(params)\n"
        "train.run(Work(params, Path(inputs), Path(folder), Device('cpu', 1), lambda *a: None))"
    )
    arguments = [str(there.inputs), str(there.folder), there.params.model_dump_json()]
    environment = os.environ | {"PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, env=environment, timeout=120)
    assert digests(here.folder) == digests(there.folder)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_loss_falls_and_the_log_says_so(family: str, request: pytest.FixtureRequest, make_work: Callable[..., Work]):
    base = request.getfixturevalue(family)
    reports = []
    work = make_work(base, train_params(base, epochs=10))
    work = Work(work.params, work.inputs, work.folder, work.device, lambda *report: reports.append(report))
    metrics = train.run(work).metrics
    steps = read_json(work.folder / "training_log.json")["steps"]
    assert metrics["loss_last"] < metrics["loss_first"] / 2
    assert [step["step"] for step in steps] == list(range(1, 21))
    assert steps[0]["loss"] == metrics["loss_first"] and steps[-1]["loss"] == metrics["loss_last"]
    assert metrics["tokens"] == sum(step["tokens"] for step in steps) > 0
    assert max(step["lr"] for step in steps) == pytest.approx(1e-2)
    assert [(position, total) for position, total, _ in reports] == [(step, 20) for step in range(1, 21)]
    assert {"loss", "tokens_per_second"} <= reports[-1][2].keys()


def test_base_is_left_as_it_was_after_a_failed_training(llama: Path, make_work: Callable[..., Work]):
    work = make_work(llama, train_params(llama, lr=1e30, epochs=5))
    with pytest.raises(ModelError, match=r"the loss is (nan|inf) at step [2-9]"):
        train.run(work)
    base = bases.load(work, False)
    assert base.model.dtype is torch.float32
    assert not any("lora" in name for name, _ in base.model.named_modules())
    assert not any(work.folder.iterdir())


def test_more_examples_than_there_are(llama: Path, make_work: Callable[..., Work]):
    with pytest.raises(DataError, match="n = 11, but the dataset has 10 training examples"):
        train.run(make_work(llama, train_params(llama, n=11)))


def test_too_long_examples_are_dropped_and_counted(llama: Path, make_work: Callable[..., Work]):
    base = bases.load(make_work(llama, train_params(llama), name="a"), False)
    pairs, _ = encode_all(base, examples(10), None, 1024)
    sizes = sorted(len(each.ids) for _, each in pairs)
    params = train_params(llama, n=10, epochs=1, max_length=sizes[4])
    outcome = train.run(make_work(llama, params, name="b"))
    assert outcome.metrics["dropped"] == sum(size > sizes[4] for size in sizes) > 0
    with pytest.raises(DataError, match=f"none of 8 examples fits max_length = 16 tokens .the shortest has {sizes[0]}"):
        train.run(make_work(llama, train_params(llama, max_length=16), name="c"))


def test_ref_key_decides_what_is_kept(llama: Path, qwen2: Path):
    assert ref(llama).key != ref(qwen2).key
