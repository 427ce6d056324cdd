"""The negative log-likelihood of answers, token by token: what training minimizes and scoring reports."""

from collections.abc import Sequence

import torch
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel

from workers.engine.prompts import Encoded

HEAD_EXTRAS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Config keys of models that do more to their logits than multiply by the head."""


def answer_nll(model: PreTrainedModel, examples: Sequence[Encoded], device: torch.device) -> torch.Tensor:
    """NLL in nats of each answer token and end token, example after example, in float32.

    The examples are padded on the right, so no real token can see a pad: no attention mask is needed, and which
    token fills up does not matter. The head works on the answers' positions alone.
    """
    ids = torch.zeros(len(examples), max(len(each.ids) for each in examples), dtype=torch.long)  # (B, T)
    for row, each in enumerate(examples):
        ids[row, : len(each.ids)] = torch.tensor(each.ids)
    rows = torch.cat([torch.full((each.answers,), row) for row, each in enumerate(examples)])  # (N)
    columns = torch.cat([torch.arange(each.first, len(each.ids)) for each in examples])  # (N)
    targets = ids[rows, columns].to(device)
    logits = _logits(model, ids.to(device), rows.to(device), columns.to(device) - 1)  # (N, V)
    return functional.cross_entropy(logits.float(), targets, reduction="none")


def _logits(model: PreTrainedModel, ids: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Logits (N, V) at (rows, columns) of `ids` (B, T)."""
    if not _plain_head(model.config):
        return model(input_ids=ids, use_cache=False).logits[rows, columns]
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state  # (B, T, H)
    head = model.get_output_embeddings()
    assert isinstance(head, torch.nn.Module)
    return head(hidden[rows, columns])


def _plain_head(config: PretrainedConfig) -> bool:
    text = config.get_text_config()
    return not any(getattr(text, key, None) for key in HEAD_EXTRAS)
