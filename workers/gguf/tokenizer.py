"""The vocabulary of a transformers folder as llama.cpp reads it.

llama.cpp does not take the pre-tokenizer's regex from the file: it knows some by name. The name is found here by the
regex itself; the `parity` kind then proves the choice on real text.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedTokenizerBase

from jsm_queue.data.examples import Example
from jsm_queue.errors import ModelDamagedError, ModelUnsupportedError
from workers.engine import prompts
from workers.engine.bases import load_tokenizer

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2_REGEX = rf"{_WORDS}\p{{N}}{_REST}"
LLAMA3_REGEX = rf"{_WORDS}\p{{N}}{{1,3}}{_REST}"

PRE_TYPES: dict[tuple[str, bool], str] = {
    (QWEN2_REGEX, False): "qwen2",
    (LLAMA3_REGEX, True): "llama-bpe",
    (LLAMA3_REGEX, False): "smaug-bpe",
    ("gpt-2", False): "gpt-2",
    ("digits, gpt-2", False): "smollm",
}
"""(the Split regex or the byte-level rule, does a whole word in the vocabulary win over merges) → llama.cpp's name."""


@dataclass(frozen=True)
class Vocabulary:
    """What goes into the `tokenizer.*` keys. `model` is "gpt2" (byte-level BPE) or "llama" (BPE with byte fallback)."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    special: dict[str, int] = field(default_factory=dict)
    add_bos: bool = False
    add_space_prefix: bool | None = None
    chat_template: str | None = None


def read_vocabulary(folder: Path, size: int, chat_template: str | None) -> Vocabulary:
    """The vocabulary of a folder, padded to the model's `size`. Raises ModelError where llama.cpp has no equivalent."""
    tokenizer = load_tokenizer(folder)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelUnsupportedError("the base has no tokenizer.json", "Save it with a fast tokenizer")
    spec = json.loads(backend.to_str())
    vocabulary = _bpe(spec) if _byte_level(spec) else _byte_fallback(spec)
    template = chat_template or _own_template(tokenizer)
    return replace(
        _padded(vocabulary, size),
        special=_special_ids(tokenizer, template),
        add_bos=_adds_bos(tokenizer),
        chat_template=template,
    )


def write_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    """Adds the `tokenizer.*` keys."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    writer.add_token_scores(vocabulary.scores)
    for name, token in vocabulary.special.items():
        getattr(writer, f"add_{name}_token_id")(token)
    writer.add_add_bos_token(vocabulary.add_bos)
    if vocabulary.add_space_prefix is not None:
        writer.add_add_space_prefix(vocabulary.add_space_prefix)
    if vocabulary.chat_template:
        writer.add_chat_template(vocabulary.chat_template)


def pre_type(pre_tokenizer: dict[str, Any] | None, ignore_merges: bool) -> str:
    """llama.cpp's name of a byte-level pre-tokenizer (as in tokenizer.json). Raises ModelError for one it lacks."""
    rule = _rule(pre_tokenizer)
    name = PRE_TYPES.get((rule, ignore_merges))
    if name is None:
        known = ", ".join(sorted(PRE_TYPES.values()))
        raise ModelUnsupportedError(
            f"the base's pre-tokenizer is unknown to the GGUF export: {rule}", f"Known are {known}"
        )
    return name


def _rule(pre_tokenizer: dict[str, Any] | None) -> str:
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer])
    match [step for step in steps if step]:
        case [{"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}, last]:
            return regex if _level(last, use_regex=False) else json.dumps(last)
        case [{"type": "Digits", "individual_digits": True}, last] if _level(last, use_regex=True):
            return "digits, gpt-2"
        case [last] if _level(last, use_regex=True):
            return "gpt-2"
        case _:
            return json.dumps(pre_tokenizer, ensure_ascii=False)


def _level(step: dict[str, Any], use_regex: bool) -> bool:
    plain = step["type"] == "ByteLevel" and not step.get("add_prefix_space")
    return plain and step.get("use_regex", True) == use_regex


def _byte_level(spec: dict[str, Any]) -> bool:
    model = spec["model"]
    if model["type"] != "BPE":
        raise ModelUnsupportedError(
            f"no GGUF export for a {model['type']} vocabulary", "Use a base with a BPE tokenizer"
        )
    # Some versions of transformers set byte_fallback for what they read from a GGUF, byte-level or not.
    pre_tokenizer = spec.get("pre_tokenizer") or {}
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    return any(step.get("type") == "ByteLevel" for step in steps) or not model.get("byte_fallback")


def _bpe(spec: dict[str, Any]) -> Vocabulary:
    normalizer = spec.get("normalizer")
    if normalizer and normalizer["type"] != "NFC" and normalizer.get("normalizers") != []:
        # llama.cpp normalizes nothing; NFC text, which is what people type, passes unchanged.
        raise ModelUnsupportedError(
            f"llama.cpp cannot apply the tokenizer's normalizer {normalizer['type']}", "Use another base"
        )
    pre = pre_type(spec.get("pre_tokenizer"), bool(spec["model"].get("ignore_merges")))
    tokens, types = _tokens(spec)
    return Vocabulary("gpt2", pre, tokens, types, merges=[_merge_text(merge) for merge in spec["model"]["merges"]])


def _byte_fallback(spec: dict[str, Any]) -> Vocabulary:
    """SentencePiece-like BPE. llama.cpp merges the pair whose result scores highest: the score is the merge's rank."""
    tokens, types = _tokens(spec)
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(spec["model"]["merges"]):
        ranks.setdefault(_merge_text(merge).replace(" ", ""), rank)
    scores = [-float(ranks.get(token, len(ranks))) for token in tokens]
    for index, token in enumerate(tokens):
        if len(token) == 6 and token.startswith("<0x"):
            types[index] = TokenType.BYTE
        elif token == spec["model"].get("unk_token"):
            types[index] = TokenType.UNKNOWN
    return Vocabulary("llama", "default", tokens, types, scores=scores, add_space_prefix=_space_prefix(spec))


def _space_prefix(spec: dict[str, Any]) -> bool:
    scheme = (spec.get("pre_tokenizer") or {}).get("prepend_scheme", "never")
    return scheme != "never" or '"Prepend"' in json.dumps(spec.get("normalizer"))


def _merge_text(merge: str | list[str]) -> str:
    return merge if isinstance(merge, str) else " ".join(merge)


def _tokens(spec: dict[str, Any]) -> tuple[list[str], list[int]]:
    by_id = {index: (token, TokenType.NORMAL) for token, index in spec["model"]["vocab"].items()}
    for added in spec["added_tokens"]:
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        by_id[added["id"]] = (added["content"], kind)
    rows = [by_id.get(index, (f"[UNUSED_{index}]", TokenType.UNUSED)) for index in range(max(by_id) + 1)]
    return [token for token, _ in rows], [int(kind) for _, kind in rows]


def _padded(vocabulary: Vocabulary, size: int) -> Vocabulary:
    have = len(vocabulary.tokens)
    if have > size:
        raise ModelDamagedError(
            f"the tokenizer knows {have} tokens and the model {size}", "Resize the model's embedding"
        )
    return replace(
        vocabulary,
        tokens=vocabulary.tokens + [f"[UNUSED_{index}]" for index in range(have, size)],
        types=vocabulary.types + [int(TokenType.UNUSED)] * (size - have),
        scores=vocabulary.scores and vocabulary.scores + [-1e6] * (size - have),
    )


def _special_ids(tokenizer: PreTrainedTokenizerBase, template: str | None) -> dict[str, int]:
    """bos, eos, unk and pad as the tokenizer says; eot: the token that ends an answer in the chat template."""
    prompts.check_tokenizer(tokenizer)
    ids = {name: getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "unk", "pad")}
    if template:
        example = Example(id="?", question="?", answer="?")
        ids["eot"] = prompts.encode(tokenizer, prompts.chat_template(tokenizer, template), example, None).ids[-1]
    return {name: token for name, token in ids.items() if token is not None}


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and ids[0] == tokenizer.bos_token_id


def _own_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    template = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template
