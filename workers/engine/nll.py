"""The negative log-likelihood of answers, token by token: what training minimizes and scoring reports."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel

from workers.engine.packing import pack, packs
from workers.engine.prompts import Encoded

HEAD_EXTRAS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Config keys of models that do more to their logits than multiply by the head."""


def answer_nll(model: PreTrainedModel, examples: Sequence[Encoded], device: torch.device) -> torch.Tensor:
    """NLL in nats of each answer token and end token, example after example (N), in float32.

    The examples stand in one row without padding, so no token's id ever decides what is masked; several at once
    need a model that packs. The head works on the answers' positions alone.
    """
    ids = torch.tensor([i for each in examples for i in each.ids])  # (T)
    starts = accumulate((len(each.ids) for each in examples), initial=0)
    places = torch.cat(
        [start + torch.arange(each.first, len(each.ids)) for start, each in zip(starts, examples, strict=False)]
    )  # (N)
    layout: dict[str, Any] = {}
    if packs(model):
        packing, positions = pack([len(each.ids) for each in examples], device)
        # A mask of four dimensions is handed on as it is: ours has nothing to say.
        nothing = torch.ones(1, 1, 1, 1, device=device)
        layout = {"position_ids": positions, "packing": packing, "attention_mask": nothing}
    logits = _logits(model, ids[None].to(device), (places - 1).to(device), layout)  # (N, V)
    return functional.cross_entropy(logits.float(), ids[places].to(device), reduction="none")


def _logits(model: PreTrainedModel, ids: torch.Tensor, places: torch.Tensor, layout: dict[str, Any]) -> torch.Tensor:
    """Logits (N, V) at N places of the row `ids` (1, T)."""
    if not _plain_head(model.config):
        return model(input_ids=ids, use_cache=False, **layout).logits[0, places]
    hidden = model.get_decoder()(input_ids=ids, use_cache=False, **layout).last_hidden_state  # (1, T, H)
    head = model.get_output_embeddings()
    assert isinstance(head, torch.nn.Module)
    return head(hidden[0, places])


def _plain_head(config: PretrainedConfig) -> bool:
    text = config.get_text_config()
    return not any(getattr(text, key, None) for key in HEAD_EXTRAS)
