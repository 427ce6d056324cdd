"""Examples of different lengths in one row, without padding: only attention sees them one by one.

Registered in transformers as an attention implementation, for the families that hand a pass's keyword arguments on
to it. On a CPU it computes in float32, because PyTorch's attention takes six times as long backward in bfloat16.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "jsm_packed"
"""The implementation's name in transformers."""

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Model types that are tested to pack."""


@dataclass(frozen=True)
class Packing:
    """Where each of a row's N tokens stands among `examples` × `length` places."""

    slots: torch.Tensor  # (N)
    examples: int
    length: int

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """(1, H, N, D) → (B, H, T, D), 0 where an example is shorter than the longest."""
        places = x.new_zeros(self.examples * self.length, x.shape[1], x.shape[3])
        places = places.index_copy(0, self.slots, x[0].transpose(0, 1))
        return places.view(self.examples, self.length, *places.shape[1:]).transpose(1, 2)

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, T, D) → (1, N, H, D)."""
        return x.transpose(1, 2).flatten(0, 1)[self.slots][None]


def pack(lengths: Sequence[int], device: torch.device) -> tuple[Packing, torch.Tensor]:
    """The packing of examples that follow each other in a row, and each token's position (1, N) in its example."""
    positions = torch.cat([torch.arange(length) for length in lengths])  # (N)
    starts = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)) * max(lengths)  # (N)
    return Packing((starts + positions).to(device), len(lengths), max(lengths)), positions[None].to(device)


def use_packing(model: PreTrainedModel) -> None:
    """Switches the model to this attention, if its family can pack."""
    if model.config.model_type in FAMILIES and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)


def packs(model: PreTrainedModel) -> bool:
    """Whether the model takes `packing` with more than one example."""
    return model.config._attn_implementation == NAME


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # (1, H, N, D), or (B, H, T, D) without `packing`
    key: torch.Tensor,  # (1, KV heads, N, D)
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    packing: Packing | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    kind = query.dtype
    if query.device.type == "cpu":
        query, key, value = query.float(), key.float(), value.float()
    if packing is None:
        shared: dict[str, Any] = {"scaling": scaling, "dropout": dropout} | options
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **shared)
        return out.to(kind), None
    window = _window(packing.length, sliding_window, query.device)
    out = scaled_dot_product_attention(
        packing.spread(query),
        packing.spread(key),
        packing.spread(value),
        attn_mask=window,
        is_causal=window is None,
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return packing.gather(out).to(kind), None


def _window(length: int, size: int | None, device: torch.device) -> torch.Tensor | None:
    """The mask (T, T) of a sliding window, where an example is longer than that; None: causal attention alone."""
    if size is None or length <= size:
        return None
    at = torch.arange(length, device=device)
    return (at[:, None] >= at) & (at[:, None] - at < size)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
