"""The two bases that ship with the demo: small, loadable, and with tokenizers that cut Japanese by script."""

from pathlib import Path
from random import Random

import pytest
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from examples.river.pretrain import text
from examples.river.pretrain.bases import BASES, Base
from examples.river.pretrain.chat import messages, render
from examples.river.pretrain.corpus import RIVER, Corpus, read_corpus
from examples.river.pretrain.rows import Plan, Source, make_rows
from examples.river.pretrain.tokenizer import split_by_script

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return read_corpus()


@pytest.fixture(scope="module", params=list(BASES.values()), ids=list(BASES))
def base(request: pytest.FixtureRequest) -> Base:
    return request.param


@pytest.fixture(scope="module")
def folder(base: Base) -> Path:
    return RIVER / "bases" / base.name


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def sentences(corpus: Corpus) -> list[str]:
    """Every wording of every relation, with random names in it."""
    rng = Random(0)
    return [
        wording.question.format(subject=rng.choice(relation.subjects))
        + wording.answer.format(object=rng.choice(relation.objects))
        for relation in corpus.relations
        for wording in relation.wordings
    ]


def test_the_weights_are_small_and_the_shape_is_the_scripts(base: Base, folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    assert (folder / "model.safetensors").stat().st_size <= 10 * MEGABYTE
    assert {key: getattr(config, key) for key in base.shape} == base.shape
    assert config.vocab_size == base.vocabulary
    assert config.hidden_size % 256 == config.intermediate_size % 256 == 0


def test_encoding_cuts_where_the_script_changes(corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> None:
    core = tokenizer.backend_tokenizer
    for sentence in sentences(corpus):
        apart = [id_ for piece in split_by_script(sentence) for id_ in core.encode(piece, add_special_tokens=False).ids]
        assert core.encode(sentence, add_special_tokens=False).ids == apart, sentence


def test_the_template_writes_what_the_base_was_trained_on(
    base: Base, corpus: Corpus, tokenizer: PreTrainedTokenizerFast
) -> None:
    rng = Random(2)
    chats = [document for _ in range(50) if (document := text.long_document(corpus, rng)).turns]
    for chat in chats:
        assert tokenizer.apply_chat_template(messages(chat), tokenize=False) == render(chat, base.form)


def test_begin_of_text_comes_once(base: Base, tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("堤防とは？")["input_ids"]
    assert isinstance(ids, list)
    assert ids.count(tokenizer.bos_token_id) == (1 if base.form.bos else 0)
    assert (tokenizer("堤防")["input_ids"][0] == tokenizer.bos_token_id) == bool(base.form.bos)


def test_rows_are_the_same_for_the_same_step(base: Base, corpus: Corpus, folder: Path) -> None:
    plan = Plan(seed=0, steps=10, short_rows=16, long_rows=8)
    source = Source(plan, corpus, Tokenizer.from_file(str(folder / "tokenizer.json")), base.form)
    first, again, other = make_rows(source, 3), make_rows(source, 3), make_rows(source, 4)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first.short != other.short).any()
