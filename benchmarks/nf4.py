"""`make bench-nf4`: the kinds `train` and `score` on NF4 bases, on the GPU where there is one.

What the demo's base learns when it is quantized, against the same without; and, on a GPU, speed and memory with
random weights of Llama-3-8B's shape and examples of mean 225 tokens, a step of 16.
"""

import json
import math
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.form import ROOT, Row, report
from jsm_queue.data.examples import Example, write_examples
from jsm_queue.kinds import BaseRef, FileRef, Params, ScoreParams, TrainParams
from jsm_queue.planner import prepare_params
from jsm_queue.spec import TrainingSpec, read_spec
from workers.engine import bases
from workers.kinds import prepare, score, train
from workers.work import Device, Outcome, Work

RIVER = ROOT / "examples" / "river"
RIVER_N = 500
MEAN_TOKENS = 225  # of an example; as in the project's reference measurements of other trainers
SPREAD = 0.45  # of the lengths' logarithm
WARM_UP, TIMED = 64, 512  # examples: 4 steps that are not counted, 32 that are
SCORED = 256  # examples
TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }} {% if message['role'] == 'assistant' %}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)
LLAMA_8B = LlamaConfig(
    vocab_size=128_256,
    hidden_size=4096,
    intermediate_size=14_336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=8192,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
    tie_word_embeddings=False,
    bos_token_id=0,
    eos_token_id=1,
)
DEVICE = Device("cuda:0", 8) if torch.cuda.is_available() else Device("cpu", torch.get_num_threads())


def main() -> int:
    """Returns the exit status."""
    with tempfile.TemporaryDirectory(prefix="jsm-nf4-", dir=_roomy()) as folder:
        rows = list(river(Path(folder) / "river"))
        if DEVICE.name != "cpu":
            rows += llama_8b(Path(folder) / "llama")
    return report("nf4", rows)


def river(folder: Path) -> Iterator[Row]:
    """Validation NLL of the demo's base at n = RIVER_N, quantized and not."""
    spec = read_spec(RIVER / "study.yaml")
    source = folder / "prepare" / "inputs" / "source"
    source.mkdir(parents=True)
    shutil.copy(RIVER / "graph.yaml", source)
    params = prepare_params(spec.data, FileRef(sha="0" * 64, suffix=".yaml"), bench=None)
    dataset = folder / "prepare" / "out"
    dataset.mkdir()
    prepare.run(Work(params, folder / "prepare" / "inputs", dataset, DEVICE, lambda *_: None))
    base = BaseRef(form="folder")
    found: dict[tuple[bool, bool], float] = {}
    for quantized in (False, True):
        training = spec.training.model_copy(update={"quantized": quantized})
        inputs = {"dataset": dataset, "base": RIVER / "bases" / "river-qwen2"}
        adapter = folder / f"train-{quantized}" / "out"
        run(train, TrainParams(base=base, n=RIVER_N, seed=1, training=training, system_prompt=None), adapter, inputs)
        for trained in (False, True):
            out = folder / f"score-{quantized}-{trained}" / "out"
            ask = ScoreParams(
                base=base, split="validation", quantized=quantized, max_length=training.max_length, system_prompt=None
            )
            found[quantized, trained] = nll_per_token(
                run(score, ask, out, inputs | ({"adapter": adapter} if trained else {}))
            )
    bases.forget()
    for trained, name in ((False, "untrained"), (True, f"n={RIVER_N}")):
        yield Row(
            f"river-qwen2 {name}, NF4",
            found[True, trained],
            "nats/token",
            # A base that learned nothing would stay where it was.
            bound=found[True, False] if trained else None,
            reference="unquantized",
            reference_value=found[False, trained],
        )


def llama_8b(folder: Path) -> Iterator[Row]:
    """Speed and memory at an 8B model's size."""
    base = save_random_llama(folder / "base")
    dataset = folder / "dataset"
    dataset.mkdir()
    write_examples(dataset / "train.jsonl", random_examples(TIMED))
    write_examples(dataset / "validation.jsonl", random_examples(SCORED))
    inputs = {"dataset": dataset, "base": base}
    ref = BaseRef(form="folder", chat_template=TEMPLATE)
    training = TrainingSpec(r=16, alpha=16, lr=2e-4, epochs=1, batch=16, max_length=1024)
    for n in (WARM_UP, TIMED):
        params = TrainParams(base=ref, n=n, seed=1, training=training, system_prompt=None)
        trained = run(train, params, folder / f"train-{n}" / "out", inputs).metrics
    yield Row("llama-8b train", trained["tokens_per_second"], "tokens/s")
    yield Row("llama-8b train, peak memory", trained["peak_bytes"] / 2**30, "GiB")
    torch.cuda.reset_peak_memory_stats()
    params = ScoreParams(base=ref, split="validation", quantized=True, max_length=1024, system_prompt=None)
    adapter = folder / f"train-{TIMED}" / "out"
    scored = run(score, params, folder / "score" / "out", inputs | {"adapter": adapter}).metrics
    yield Row("llama-8b score", scored["tokens_per_second"], "tokens/s")
    yield Row("llama-8b score, peak memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")


def run(kind, params: Params, out: Path, inputs: dict[str, Path]) -> Outcome:
    """One job of a kind's module, with its inputs where the agent would put them."""
    folder = out.parent / "inputs"
    folder.mkdir(parents=True)
    out.mkdir()
    for name, target in inputs.items():
        (folder / name).symlink_to(target)
    return kind.run(Work(params, folder, out, DEVICE, lambda *_: None))


def nll_per_token(outcome: Outcome) -> float:
    """Over all answers."""
    sums = {name: sum(r.value for r in outcome.records if r.name == name) for name in ("nll", "tokens")}
    return sums["nll"] / sums["tokens"]


def random_examples(count: int) -> list[Example]:
    """Questions and answers of random words, a word a token: a third question, two thirds answer."""
    rng = random.Random(count)
    examples = []
    for i in range(count):
        length = min(max(round(rng.lognormvariate(math.log(MEAN_TOKENS) - SPREAD**2 / 2, SPREAD)), 60), 700)
        words = [f"w{rng.randrange(6, LLAMA_8B.vocab_size)}" for _ in range(length)]
        cut = length // 3
        examples.append(Example(id=f"e{i}", question=" ".join(words[:cut]), answer=" ".join(words[cut:])))
    return examples


def save_random_llama(folder: Path) -> Path:
    """A model of LLAMA_8B's shape in bfloat16, a file a layer, with a tokenizer of a word a token."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in LlamaForCausalLM(LLAMA_8B).state_dict().items()}
    files: dict[str, str] = {}
    for part in sorted({_part(name) for name in shapes}):
        tensors = {
            name: torch.ones(shape, dtype=torch.bfloat16)
            if len(shape) == 1
            else (0.02 * torch.randn(shape, dtype=torch.bfloat16, device=DEVICE.name)).cpu()
            for name, shape in shapes.items()
            if _part(name) == part
        }
        save_file(tensors, folder / f"{part}.safetensors", metadata={"format": "pt"})
        files |= dict.fromkeys(tensors, f"{part}.safetensors")
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    config = LLAMA_8B.to_dict() | {"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    _word_tokenizer(LLAMA_8B.vocab_size).save_pretrained(folder)
    return folder


def _part(name: str) -> str:
    layer = name.split(".layers.", 1)[1].split(".")[0] if ".layers." in name else "rest"
    return f"model-{layer}"


def _word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    special = {"<s>": 0, "</s>": 1, "<pad>": 2, "<unk>": 3, "a": 4, "1": 5}
    words = special | {f"w{i}": i for i in range(len(special), size)}
    backend = Tokenizer(models.BPE(words, [], unk_token="<unk>", ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def _roomy() -> str | None:
    """Where 16 GB may lie: in memory where that is a file system, as a bare machine's disk may be slow."""
    return "/dev/shm" if DEVICE.name != "cpu" and Path("/dev/shm").is_dir() else None


if __name__ == "__main__":
    raise SystemExit(main())
