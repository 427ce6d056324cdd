from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsm_queue.data.examples import Example
from jsm_queue.data.subsets import subset
from jsm_queue.errors import DataError

GROUP_SIZES = st.lists(st.integers(1, 25), min_size=1, max_size=8)


def examples_of(sizes: list[int]) -> list[Example]:
    return [
        Example(id=f"{group}-{i}", question="q", answer="a", relation=f"r{group}")
        for group, size in enumerate(sizes)
        for i in range(size)
    ]


@given(GROUP_SIZES, st.integers(0, 1000), st.data())
def test_subsets_of_a_seed_are_nested(sizes: list[int], seed: int, data: st.DataObject) -> None:
    examples = examples_of(sizes)
    n = data.draw(st.integers(1, len(examples)))
    assert subset(examples, n, seed) == subset(examples, len(examples), seed)[:n]
    assert sorted(e.id for e in subset(examples, len(examples), seed)) == sorted(e.id for e in examples)


@given(GROUP_SIZES, st.integers(0, 1000))
def test_every_prefix_holds_each_relation_within_one_of_its_share(sizes: list[int], seed: int) -> None:
    examples = examples_of(sizes)
    counts: Counter[str] = Counter()
    for n, example in enumerate(subset(examples, len(examples), seed), 1):
        counts[example.relation] += 1
        for group, size in enumerate(sizes):
            assert abs(counts[f"r{group}"] - n * size / len(examples)) < 1


@given(GROUP_SIZES, st.integers(0, 1000), st.randoms())
def test_the_order_of_the_input_does_not_matter(sizes: list[int], seed: int, random) -> None:
    examples = examples_of(sizes)
    shuffled = random.sample(examples, len(examples))
    assert subset(shuffled, len(examples), seed) == subset(examples, len(examples), seed)


def test_seeds_choose_differently() -> None:
    examples = examples_of([50, 50])
    chosen = {frozenset(e.id for e in subset(examples, 10, seed)) for seed in range(5)}
    assert len(chosen) == 5


def test_without_relation_the_category_is_balanced() -> None:
    examples = [Example(id=str(i), question="q", answer="a", category="ab"[i % 2]) for i in range(40)]
    assert Counter(e.category for e in subset(examples, 10, 0)) == {"a": 5, "b": 5}


@pytest.mark.parametrize("n", [0, 7])
def test_more_than_there_are_is_refused(n: int) -> None:
    with pytest.raises(DataError, match="of 6 training examples"):
        subset(examples_of([3, 3]), n, 0)


def test_repeated_ids_are_refused() -> None:
    with pytest.raises(DataError, match="repeat an id"):
        subset(examples_of([2]) * 2, 2, 0)
