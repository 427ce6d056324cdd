"""Bases that look like the ones people use: chat templates of the same behaviour, tokenizers of the same habits."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from jsm_queue.data.chat_templates import TEMPLATES
from jsm_queue.data.examples import Example, Turn
from workers.gguf import tiny
from workers.gguf.tokenizer import LLAMA3_REGEX, QWEN2_REGEX

FOLDER = Path(__file__).parent / "templates"

QUESTION, ANSWER, SYSTEM = "堤防は何を防ぎますか。", "氾濫です。\n\nTotal 12,345 m3.", "短く答えてください。"
SINGLE = Example(id="single", question=QUESTION, answer=ANSWER)
TURNS = SINGLE.model_copy(
    update={
        "id": "turns",
        "history": [
            Turn(question="ダムとは？", answer="水を貯める施設です。"),
            Turn(question="How high is it?", answer="12 m。"),
        ],
    }
)
THOUGHTS = TURNS.model_copy(
    update={"history": [Turn(question="ダムとは？", answer="<think>\n考えます。\n</think>\n\n水を貯める施設です。")]}
)


@dataclass(frozen=True)
class LookAlike:
    """`special` and `added`: tokens with and without that mark. `spm`: SentencePiece-like, with a space put before
    every text or, like Gemma's, without. `adds_bos`: the tokenizer puts `bos` before any text."""

    template: str
    special: tuple[str, ...]
    eos: str
    bos: str | None = None
    adds_bos: bool = False
    added: tuple[str, ...] = ()
    regex: str = QWEN2_REGEX
    spm: Literal["space", "bare"] | None = None
    takes_system: bool = True

    def text(self) -> str:
        """The Jinja text."""
        return TEMPLATES.get(self.template) or (FOLDER / f"{self.template}.jinja").read_text(encoding="utf-8")

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A tokenizer with this template."""
        backend = _sentencepiece(self) if self.spm else _byte_level(self)
        backend.add_special_tokens([AddedToken(token, normalized=False) for token in self.special])
        backend.add_tokens([AddedToken(token, normalized=False) for token in self.added])
        if self.adds_bos and self.bos:
            pair = (self.bos, backend.token_to_id(self.bos))
            backend.post_processor = processors.TemplateProcessing(single=f"{self.bos} $A", special_tokens=[pair])
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, bos_token=self.bos, eos_token=self.eos, clean_up_tokenization_spaces=False
        )
        tokenizer.chat_template = self.text()
        return tokenizer

    def save(self, folder: Path) -> Path:
        """A tiny base with this tokenizer; returns the folder."""
        tiny.save_base(folder, "mistral", hidden=64)
        for file in [*folder.glob("tokenizer*"), *folder.glob("*.jinja")]:
            file.unlink()
        self.tokenizer().save_pretrained(folder)
        return folder


_LLAMA = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_GEMMA = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
_HEAD = ("<unk>", "<s>", "</s>")
_THINK = ("<think>", "</think>")

ALIKE: dict[str, LookAlike] = {
    "llama-3.1": LookAlike("llama-3.1", _LLAMA, "<|eot_id|>", _LLAMA[0], True, regex=LLAMA3_REGEX),
    "llama-swallow": LookAlike("llama-swallow", _LLAMA, "<|eot_id|>", _LLAMA[0], True, regex=LLAMA3_REGEX),
    "tinyswallow": LookAlike("qwen2.5", _QWEN, "<|im_end|>"),
    "qwen3": LookAlike("qwen3", _QWEN, "<|im_end|>", added=_THINK),
    "qwen3-strips": LookAlike("qwen3-strips", _QWEN, "<|im_end|>", added=_THINK),
    "qwen3-thinks": LookAlike("qwen3-thinks", _QWEN, "<|im_end|>", added=_THINK),
    "gemma-2": LookAlike("gemma-2", _GEMMA, "<end_of_turn>", "<bos>", True, spm="bare", takes_system=False),
    "gemma-3": LookAlike("gemma-3", _GEMMA, "<end_of_turn>", "<bos>", True, spm="bare"),
    "mistral": LookAlike("mistral", _HEAD, "</s>", "<s>", True, spm="space", takes_system=False),
    "mistral-last": LookAlike("mistral-last", _HEAD, "</s>", "<s>", True, added=("[INST]", "[/INST]"), spm="space"),
    "chatml": LookAlike("chatml", (*_QWEN, "<s>"), "<|im_end|>", "<s>", True),
    "llm-jp": LookAlike("llm-jp", _HEAD, "</s>", "<s>", True, spm="bare", takes_system=False),
    "sarashina": LookAlike(
        "sarashina", (*_HEAD, "<|system|>", "<|user|>", "<|assistant|>"), "</s>", "<s>", False, spm="bare"
    ),
    "phi": LookAlike("phi", ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), "<|endoftext|>"),
    "bos-less": LookAlike("sarashina", (*_QWEN, "<|system|>", "<|user|>", "<|assistant|>"), "<|im_end|>"),
    "plain-ja": LookAlike("plain-ja", _HEAD, "</s>", "<s>", True, spm="bare"),
}
"""By the family that each looks like."""


def _byte_level(alike: LookAlike) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(alike.regex), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        tiny.TEXT, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    return backend


def _sentencepiece(alike: LookAlike) -> Tokenizer:
    """As converted from SentencePiece: "▁" for spaces, bytes for unknown characters."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trained.train_from_iterator(tiny.TEXT, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    head = [*alike.special, *(f"<0x{byte:02X}>" for byte in range(256))]
    vocab = {token: index for index, token in enumerate(dict.fromkeys([*head, *sorted(trained.get_vocab())]))}
    merges = [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    space = [normalizers.Prepend("▁")] if alike.spm == "space" else []
    backend.normalizer = normalizers.Sequence([*space, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)] if alike.spm == "space" else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return backend
