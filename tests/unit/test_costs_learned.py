"""What samples teach the cost model, and what a job needs of a slot's memory."""

import random
from dataclasses import replace

import pytest

from jsm_queue import costs
from jsm_queue.costs import PRIOR, Sample, SlotClass, StudyFacts, Task, learn
from jsm_queue.costs.memory import GIB

CARD, OTHER, CPU = SlotClass("gpu", "RTX 4060 Ti"), SlotClass("gpu", "RTX 3060"), SlotClass("cpu", "CPU x, 8 cores")
FACTS = StudyFacts(
    validation=60, test=120, bench=True, epochs=3, batch=16, max_length=1024, quantized=True, new_tokens=256,
    judge="key_facts", judges_at_once=1, bases={"b": 8e9, "unknown": 0.0},
)  # fmt: skip


def train(base: str = "b", n: int = 1000) -> Task:
    return costs.task("train", {}, FACTS, "bases", base, n, None)


def sample(ratio: float, gpu: SlotClass = CARD, base: str = "b", **more: int) -> Sample:
    work = costs.prior_seconds(train(base), gpu)
    return Sample("train", base, gpu.name, work, ratio * work, **more)


def ratio(known: costs.Costs, gpu: SlotClass = CARD, base: str = "b") -> float:
    return known.seconds(train(base), gpu) / costs.prior_seconds(train(base), gpu)


def test_many_samples_are_believed_and_few_half() -> None:
    assert ratio(PRIOR) == 1
    assert 1.2 < ratio(learn([sample(2.0)])) < 1.9
    assert ratio(learn([sample(2.0)] * 16)) == pytest.approx(2.0, rel=0.05)


def test_one_wild_sample_among_many_changes_little() -> None:
    calm = [sample(1.0 + 0.01 * i) for i in range(9)]
    assert ratio(learn([*calm, sample(500.0)])) == pytest.approx(ratio(learn(calm)), rel=0.02)


def test_what_one_card_shows_is_believed_of_others_until_they_show_more() -> None:
    known = learn([sample(0.1)] * 16)
    assert ratio(known, OTHER) == pytest.approx(0.1, rel=0.2)
    assert ratio(known, CPU) == 1
    assert ratio(learn([*[sample(0.1)] * 16, *[sample(1.0, OTHER)] * 16]), OTHER) == pytest.approx(1.0, rel=0.3)


def test_a_base_has_its_own_figure() -> None:
    known = learn([*[sample(1.0)] * 16, *[sample(3.0, base="slow")] * 16])
    assert ratio(known, base="slow") == pytest.approx(3.0, rel=0.1)
    assert ratio(known) == pytest.approx(1.0, rel=0.1)


def test_the_order_of_samples_does_not_matter() -> None:
    found = [sample(random.Random(i).uniform(0.5, 2), CARD if i % 2 else OTHER) for i in range(30)]
    assert learn(found) == learn(found[::-1])


def test_an_8b_training_needs_about_what_it_took() -> None:
    """8.0 GiB with everything recomputed and 16 examples packed; one example alone takes less."""
    assert 6.0 * GIB < PRIOR.memory(train(), "gpu") < 9.0 * GIB
    assert PRIOR.memory(train("unknown"), "gpu") == 0.0
    assert PRIOR.memory(replace(train(), quantized=False), "gpu") > 16 * GIB


def test_peaks_and_ooms_correct_the_memory() -> None:
    enough = learn([sample(1.0, peak_bytes=5 * GIB), sample(1.0, peak_bytes=20 * GIB)])
    assert enough.memory(train(), "gpu") == pytest.approx(5.25 * GIB)
    short = Sample("train", "b", CARD.name, 0.0, 0.0, 12 * GIB)
    assert learn([short]).memory(train(), "gpu") == 12 * GIB
    assert ratio(learn([short])) == 1, "it says nothing of time"


def test_a_larger_format_needs_more() -> None:
    answers = [
        costs.task("answer", {"split": "bench"}, FACTS, "quantization", "b", 1, fmt) for fmt in ("Q4_K_M", "F16")
    ]
    small, large = (PRIOR.memory(each, "gpu") / 1e9 for each in answers)
    assert 4.8 < small < 7 and 16 < large < 18.5


def test_judges_are_work() -> None:
    def judged(**changes: object) -> float:
        facts = replace(FACTS, **changes)
        work = costs.task("judge", {"split": "bench"}, facts, "bases", "b", 1, None)
        return PRIOR.seconds(work, CARD) - PRIOR.seconds(Task("convert", "b", 0.0), CARD)

    gguf, remote = judged(judge="gguf"), judged(judge="openai")
    assert 0 < judged() < 1 < remote < gguf
    assert judged(judge="openai", judges_at_once=4) == pytest.approx(remote / 4, rel=0.1)


def way(work: Task) -> list[Task]:
    return [work, *(way(work.then) if work.then else [])]


def test_a_path_is_a_job_and_what_waits_for_it() -> None:
    work = train()
    assert [each.kind for each in way(work)] == ["train", "convert", "answer", "judge"]
    assert PRIOR.path(work, CARD) == pytest.approx(sum(PRIOR.seconds(each, CARD) for each in way(work)))
    first = costs.task("train", {}, FACTS, "scale", "b", 9, None)
    assert [each.kind for each in way(first)] == ["train", "score"]
    all_stages = replace(FACTS, stages=("scale", "bases", "quantization"), n=5000)
    whole = way(costs.task("train", {}, all_stages, "scale", "b", 9, None))
    assert " ".join(each.kind for each in whole) == "train score train convert answer judge convert answer judge"
    assert whole[2].examples == 15_000
    before = costs.task("prepare", {}, all_stages, "scale", None, None, None)
    filler = costs.task("convert", {}, all_stages, "bases", "b", None, "Q8_0")
    assert PRIOR.path(before, CARD) > PRIOR.path(first, CARD) > 0
    assert PRIOR.path(before, CARD) > PRIOR.path(filler, CARD), "what waits for no verdict only fills slots"


def test_a_faster_card_takes_less() -> None:
    assert PRIOR.seconds(train(), SlotClass("gpu", "NVIDIA GeForce RTX 4090")) < PRIOR.seconds(train(), CARD)
    assert PRIOR.seconds(train(), CARD) < PRIOR.seconds(train(), CPU) / 50
