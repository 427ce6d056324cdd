"""Tiny random models with real tokenizers, saved as transformers folders: what tests and benchmarks convert."""

from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from workers.gguf.tokenizer import LLAMA3_REGEX, QWEN2_REGEX

Family = Literal["llama", "mistral", "qwen2", "qwen3"]

HIDDEN = 256
"""One block of a k-quant, so that every format applies to every matrix."""

VOCAB = 512
"""More than the tokenizers have, as in real models: the rest is padding."""

TEXT = [
    "堤防は河川の氾濫を防ぐ施設です。",
    "砂防堰堤は土砂の流出を抑え、河床を安定させます。",
    "ダムの洪水調節容量は12,345千m3で、it's full at 07:30.",
    "How high is the levee? 計画高水位に余裕高を加えた高さです。",
] * 20

LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""Writes BOS itself, while the tokenizer adds one too, as Llama 3's does."""

QWEN2_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def save_base(folder: Path, family: Family, seed: int = 0, hidden: int = HIDDEN) -> Path:
    """A two-layer model in bfloat16 with its tokenizer and chat template; returns the folder."""
    torch.manual_seed(seed)
    tokenizer = _llama_tokenizer() if family in ("llama", "mistral") else _qwen2_tokenizer()
    shape = {
        "vocab_size": VOCAB,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        # Five times the usual spread: logits far enough apart that an error cannot hide in their flatness.
        "initializer_range": 0.1,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = {
        "llama": LlamaConfig(**shape, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=False),
        "mistral": MistralConfig(**shape, tie_word_embeddings=False),
        "qwen2": Qwen2Config(**shape, tie_word_embeddings=True),
        "qwen3": Qwen3Config(**shape, head_dim=64, tie_word_embeddings=True),
    }[family]
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # zero by default, and then no test would miss it
            torch.nn.init.normal_(parameter, std=0.2)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_adapter(folder: Path, base: Path, seed: int = 0) -> Path:
    """A random LoRA adapter (r 8, alpha 16, all linear layers) of a base that is far from zero; returns the folder."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(str(folder))
    return folder


def _llama_tokenizer() -> PreTrainedTokenizerFast:
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    backend = _byte_level_bpe(LLAMA3_REGEX, special)
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=special[0], eos_token="<|eot_id|>")
    tokenizer.chat_template = LLAMA_TEMPLATE
    return tokenizer


def _qwen2_tokenizer() -> PreTrainedTokenizerFast:
    backend = _byte_level_bpe(QWEN2_REGEX, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    backend.normalizer = normalizers.NFC()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = QWEN2_TEMPLATE
    return tokenizer


def _byte_level_bpe(regex: str, special: list[str]) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(regex), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXT, trainer)
    return backend
