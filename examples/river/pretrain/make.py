"""Makes the shipped bases: tokenizer, pretraining, probes, model card. One folder each, whole or not at all."""

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from examples.river.pretrain import probe, rows, train
from examples.river.pretrain.bases import BASES, Base
from examples.river.pretrain.card import Made, card
from examples.river.pretrain.corpus import RIVER, Corpus, read_corpus

SEED = 0
STEPS = 2000
PEAK_RATE = 2e-3


@dataclass(frozen=True)
class Request:
    names: list[str]
    out: Path
    steps: int
    processes: int
    device: str


def main() -> None:
    request = _arguments()
    corpus = read_corpus()
    for name in request.names:
        make_base(BASES[name], corpus, request)


def _arguments() -> Request:
    parser = argparse.ArgumentParser(prog="python -m examples.river.pretrain", description=__doc__)
    parser.add_argument("bases", nargs="*", help=f"which to make: {', '.join(BASES)}; without any, all")
    parser.add_argument("--out", type=Path, default=RIVER / "bases", help="folder that gets one folder for each base")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps of about 50 000 tokens")
    parser.add_argument("--processes", type=int, default=8, help="processes that generate text")
    given = parser.parse_args()
    if unknown := set(given.bases) - set(BASES):
        parser.error(f"unknown base {', '.join(sorted(unknown))}; there are {', '.join(BASES)}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Request(given.bases or list(BASES), given.out, given.steps, given.processes, device)


def make_base(base: Base, corpus: Corpus, request: Request) -> None:
    """Pretrain, save, measure what was saved, and only then put the folder in its place."""
    folder = request.out / f"{base.name}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = base.build_tokenizer(corpus, SEED)
    torch.manual_seed(SEED)
    model = base.build_model(tokenizer)
    plan = rows.Plan(SEED, request.steps)
    stream = rows.stream(plan, tokenizer.backend_tokenizer, base.form, request.processes)
    outcome = train.pretrain(model, stream, plan, PEAK_RATE, request.device)
    _save(base, model, tokenizer, folder)
    probes = probe.run_probes(lambda: _load(folder, request.device), AutoTokenizer.from_pretrained(folder), corpus)
    made = Made(base, plan, outcome, PEAK_RATE, _device_name(request.device), model.num_parameters(), probes)
    (folder / "README.md").write_text(card(made), encoding="utf-8", newline="\n")
    print((folder / "README.md").read_text(encoding="utf-8"))
    _replace(folder, request.out / base.name)


def _save(base: Base, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    ends = tokenizer.convert_tokens_to_ids([base.form.eos, base.form.end_of_text])
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _load(folder: Path, device: str) -> PreTrainedModel:
    """The shipped weights in float32, as the demo trains them."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    torch.nn.Module.to(model, device)
    return model


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


def _replace(new: Path, old: Path) -> None:
    if old.exists():
        shutil.rmtree(old)
    new.rename(old)
