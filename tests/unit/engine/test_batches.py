"""Which examples share a pass."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from workers.engine.batches import Memory, estimate_memory, passes
from workers.engine.prompts import Encoded


def of_lengths(lengths: list[int]) -> list[Encoded]:
    return [Encoded(ids=[1] * length, first=length // 2) for length in lengths]


def needed(examples: list[Encoded], memory: Memory) -> float:
    tokens, answers = sum(len(each.ids) for each in examples), sum(each.answers for each in examples)
    places = len(examples) * max(len(each.ids) for each in examples)
    return tokens * memory.token + answers * memory.answer + places * memory.place


@given(st.lists(st.integers(2, 60), min_size=1, max_size=30), st.integers(10, 600), st.integers(1, 40))
def test_groups_hold_each_example_once_and_are_as_full_as_memory_allows(sizes: list[int], budget: int, most: int):
    examples = of_lengths(sizes)
    memory = Memory(budget, token=1, answer=2, place=0.5, examples=most)
    groups = [[examples[i] for i in group] for group in passes(examples, memory)]
    assert sorted(i for group in passes(examples, memory) for i in group) == list(range(len(sizes)))
    assert [len(each.ids) for group in groups for each in group] == sorted(sizes)
    for group, following in zip(groups, [*groups[1:], None], strict=True):
        assert len(group) == 1 or (needed(group, memory) <= budget and len(group) <= most)
        if following:
            longer = [*group, following[0]]
            assert needed(longer, memory) > budget or len(longer) > most


@pytest.mark.parametrize("training", [False, True])
def test_estimate_is_no_less_than_what_a_pass_keeps(training: bool):
    """Counted by the tensors that autograd saves, of which the weights are no activations."""
    config = LlamaConfig(
        hidden_size=64, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4, vocab_size=512
    )
    model = LlamaForCausalLM(config)
    memory = estimate_memory(model, torch.device("cpu"), training=training, recompute=False)
    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.set_grad_enabled(training):
        logits = model(torch.zeros(4, 50, dtype=torch.long), use_cache=False).logits
    estimate = 200 * (memory.token + memory.answer + memory.place)
    assert logits.nbytes + sum(kept.values()) < estimate < 4 * (logits.nbytes + sum(kept.values())) or not training


def test_recomputation_saves_memory():
    config = LlamaConfig(hidden_size=64, intermediate_size=192, num_hidden_layers=16, vocab_size=512)
    model = LlamaForCausalLM(config)
    kept, recomputed = (
        estimate_memory(model, torch.device("cpu"), training=True, recompute=recompute) for recompute in (False, True)
    )
    assert kept.token > 4 * recomputed.token
