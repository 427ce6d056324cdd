"""Byte-level BPE whose merges never cross a script: kanji, hiragana, katakana, Latin letters, digits, punctuation.

The training text is cut at every change of script; the tokenizer that ships cuts as Qwen2 or Llama 3 does, so that
llama.cpp knows it, and still splits by script because no merge joins two.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from examples.river.pretrain.chat import LLAMA3, ChatFormat
from jsm_queue.errors import DataError

SCRIPTS = (
    r"\p{Han}+|\p{Hiragana}+|[\p{Katakana}ー]+|\p{Latin}+|\p{N}"
    r"|[\r\n]+|[^\S\r\n]+|[^\p{Han}\p{Hiragana}\p{Katakana}ー\p{Latin}\p{N}\s]"
)
# The published split patterns of Qwen2 and Llama 3; llama.cpp implements them as pre types "qwen2" and "llama-bpe".
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|", 1)


def train_tokenizer(texts: Iterable[str], vocabulary: int, form: ChatFormat) -> PreTrainedTokenizerFast:
    """A tokenizer of exactly `vocabulary` tokens, the special ones last. Raises DataError if the text gives fewer."""
    core = Tokenizer(models.BPE(ignore_merges=form is LLAMA3))
    core.pre_tokenizer = _split(SCRIPTS)
    core.decoder = decoders.ByteLevel()
    wanted = vocabulary - len(form.special_tokens)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=wanted, initial_alphabet=alphabet, show_progress=False)
    )
    if core.get_vocab_size() != wanted:
        raise DataError(
            f"the text gives only {core.get_vocab_size()} tokens of {wanted}", fix="Take a smaller vocabulary."
        )
    core.add_special_tokens(list(form.special_tokens))
    core.pre_tokenizer = _split(LLAMA3_SPLIT if form is LLAMA3 else QWEN2_SPLIT)
    if form is LLAMA3:
        core.post_processor = _begin_of_text(core, form)
    else:
        core.normalizer = normalizers.NFC()
    return _wrap(core, form)


def split_by_script(text: str) -> list[str]:
    """The text cut where its script changes, spaces and line breaks apart."""
    cut = pre_tokenizers.Split(Regex(SCRIPTS), "isolated").pre_tokenize_str(text)
    return [piece for piece, _ in cut]


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    steps = [
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    return pre_tokenizers.Sequence(steps)


def _begin_of_text(core: Tokenizer, form: ChatFormat) -> processors.PostProcessor:
    special = [(form.bos, core.token_to_id(form.bos))]
    return processors.TemplateProcessing(
        single=f"{form.bos} $A", pair=f"{form.bos} $A {form.bos} $B", special_tokens=special
    )


def _wrap(core: Tokenizer, form: ChatFormat) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=form.bos or None,
        eos_token=form.eos,
        pad_token=form.pad,
        chat_template=form.template,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
