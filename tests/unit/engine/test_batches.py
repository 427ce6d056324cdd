"""Which examples share a pass."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig

from workers.engine.batches import Memory, estimate_memory, passes
from workers.engine.prompts import Encoded

MUCH = Memory(budget=1e12, token=1, answer=1)


def of_lengths(lengths: list[int]) -> list[Encoded]:
    return [Encoded(ids=[1] * length, first=length // 2) for length in lengths]


def cost(examples: list[Encoded], groups: list[list[int]], pass_cost: int) -> int:
    return sum(len(group) * max(len(examples[i].ids) for i in group) + pass_cost for group in groups)


lengths = st.lists(st.integers(2, 60), min_size=1, max_size=12)


@given(lengths, st.integers(0, 200), st.integers(10, 400))
def test_each_example_once_and_within_memory(sizes: list[int], pass_cost: int, budget: int):
    examples = of_lengths(sizes)
    groups = passes(examples, Memory(budget, token=1, answer=2), pass_cost)
    assert sorted(i for group in groups for i in group) == list(range(len(sizes)))
    for group in groups:
        padded = len(group) * max(len(examples[i].ids) for i in group)
        assert len(group) == 1 or padded + 2 * sum(examples[i].answers for i in group) <= budget


@given(st.lists(st.integers(2, 60), min_size=1, max_size=8), st.integers(0, 200))
def test_no_other_cut_of_the_sorted_examples_costs_less(sizes: list[int], pass_cost: int):
    examples = of_lengths(sizes)
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])
    cuts = (each for k in range(len(sizes)) for each in combinations(range(1, len(sizes)), k))
    ways = ([order[a:b] for a, b in zip((0, *cut), (*cut, len(sizes)), strict=True)] for cut in cuts)
    assert cost(examples, passes(examples, MUCH, pass_cost), pass_cost) == min(
        cost(examples, way, pass_cost) for way in ways
    )


def test_a_dear_pass_takes_all_and_a_cheap_one_splits_by_length():
    examples = of_lengths([10, 100, 10, 100])
    assert len(passes(examples, MUCH, pass_cost=1000)) == 1
    assert passes(examples, MUCH, pass_cost=10) == [[0, 2], [1, 3]]


def test_recomputation_saves_memory_and_training_needs_more_than_scoring():
    config = LlamaConfig(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, vocab_size=128256)
    kept = estimate_memory(config, 1e9, itemsize=2, training=True, recompute=False)
    recomputed = estimate_memory(config, 1e9, itemsize=2, training=True, recompute=True)
    scored = estimate_memory(config, 1e9, itemsize=2, training=False, recompute=False)
    assert kept.token > 5 * recomputed.token > 5 * scored.token
    assert kept.answer > scored.answer
