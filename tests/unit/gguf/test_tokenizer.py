import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from jsm_queue.errors import ModelError
from workers.gguf import tiny
from workers.gguf.export import export_f16
from workers.gguf.llama import open_gguf
from workers.gguf.tokenizer import LLAMA3_REGEX, QWEN2_REGEX, pre_type, read_vocabulary
from workers.work import Device

GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def split(regex: str) -> dict[str, Any]:
    pattern = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [pattern, {**GPT2, "use_regex": False}]}


@pytest.mark.parametrize(
    ("pre_tokenizer", "ignore_merges", "name"),
    [
        (split(QWEN2_REGEX), False, "qwen2"),
        (split(LLAMA3_REGEX), True, "llama-bpe"),
        (split(LLAMA3_REGEX), False, "smaug-bpe"),
        (GPT2, False, "gpt-2"),
        (
            {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, GPT2]},
            False,
            "smollm",
        ),
    ],
)
def test_pre_tokenizers_have_their_name(pre_tokenizer: dict[str, Any], ignore_merges: bool, name: str) -> None:
    assert pre_type(pre_tokenizer, ignore_merges) == name


@pytest.mark.parametrize(
    "pre_tokenizer", [split(r"\p{L}+"), {**GPT2, "add_prefix_space": True}, {"type": "Whitespace"}, None]
)
def test_an_unknown_pre_tokenizer_is_refused(pre_tokenizer: dict[str, Any] | None) -> None:
    with pytest.raises(ModelError, match="unknown to the GGUF export"):
        pre_type(pre_tokenizer, False)


def test_the_vocabulary_is_padded_to_the_model(llama_base: Path) -> None:
    vocabulary = read_vocabulary(llama_base, tiny.VOCAB, None)
    used = len(AutoTokenizer.from_pretrained(llama_base))
    assert len(vocabulary.tokens) == len(set(vocabulary.tokens)) == tiny.VOCAB
    assert set(vocabulary.types[used:]) == {TokenType.UNUSED}
    assert vocabulary.types[vocabulary.tokens.index("<|eot_id|>")] == TokenType.CONTROL
    assert vocabulary.add_bos


def test_a_vocabulary_larger_than_the_model_is_refused(llama_base: Path) -> None:
    with pytest.raises(ModelError, match="the tokenizer knows"):
        read_vocabulary(llama_base, 100, None)


def test_a_given_template_replaces_the_own_one_and_brings_its_end_token(llama_base: Path) -> None:
    template = "{% for m in messages %}{{ m['content'] }}<|end_of_text|>{% endfor %}"
    vocabulary = read_vocabulary(llama_base, tiny.VOCAB, template)
    assert vocabulary.chat_template == template
    assert vocabulary.tokens[vocabulary.special["eot"]] == "<|end_of_text|>"
    assert vocabulary.tokens[vocabulary.special["eos"]] == "<|eot_id|>"


@pytest.mark.parametrize("normalizer", [normalizers.NFKC(), normalizers.Lowercase()])
def test_a_normalizer_that_llama_cpp_lacks_is_refused(llama_base: Path, tmp_path: Path, normalizer: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama_base)
    tokenizer.backend_tokenizer.normalizer = normalizer
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="normalizer"):
        read_vocabulary(tmp_path, tiny.VOCAB, None)


def test_a_byte_level_vocabulary_is_one_also_where_a_byte_fallback_is_said(llama_base: Path, tmp_path: Path) -> None:
    """As transformers 5.17 reads the tokenizer of a Llama GGUF: llama.cpp aborted on what became of it."""
    folder = shutil.copytree(llama_base, tmp_path / "base")
    spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    spec["model"]["byte_fallback"] = True
    spec["normalizer"] = {"type": "Sequence", "normalizers": []}
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    assert read_vocabulary(folder, tiny.VOCAB, None) == read_vocabulary(llama_base, tiny.VOCAB, None)


def test_a_unigram_vocabulary_is_refused(tmp_path: Path) -> None:
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), ("堤", -1.0)], 0))
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="Unigram"):
        read_vocabulary(tmp_path, 8, None)


@pytest.mark.parametrize("text", ["堤防は氾濫を防ぐ。", "What is the levee?  計画 高水位", "鬱🌊 x\n\n y", " a"])
def test_sentencepiece_like_tokens_equal_the_tokenizer(spm_base: Path, spm_f16: Path, text: str) -> None:
    expected = AutoTokenizer.from_pretrained(spm_base)(text)["input_ids"]
    with open_gguf(spm_f16, Device("cpu", 1), 64) as gguf:
        assert gguf.tokenize(text) == expected
        assert gguf.text(expected).strip() == text.strip()


@pytest.fixture(scope="module")
def spm_f16(spm_base: Path) -> Path:
    out = spm_base / "f16.gguf"
    export_f16(spm_base, None, out)
    return out


@pytest.fixture(scope="module")
def spm_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with a BPE tokenizer as converted from SentencePiece: "▁" for spaces, bytes for unknown characters."""
    folder = tiny.save_base(tmp_path_factory.mktemp("spm"), "mistral")
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trained.train_from_iterator(tiny.TEXT, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    head = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)]]
    learned = sorted(trained.get_vocab(), key=lambda token: trained.get_vocab()[token])
    vocab = {token: index for index, token in enumerate(dict.fromkeys(head + learned))}
    merges = [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in head[:3]])
    for file in folder.glob("tokenizer*"):
        file.unlink()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    return folder
