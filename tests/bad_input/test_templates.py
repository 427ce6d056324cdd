"""Templates and tokenizers that cannot be used, by mistake or on purpose: one clear error, no hang, no full memory."""

import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

from jsm_queue.data.examples import Example, Turn
from jsm_queue.errors import ChatTemplateError, ModelError
from jsm_queue.kinds import BaseRef, ScoreParams
from tests.parity.lookalikes import ALIKE
from workers.engine import bases
from workers.engine.prompts import ChatTemplate, chat_template, check_tokenizer, encode, prompt_text
from workers.gguf import tiny
from workers.gguf.export import export_f16
from workers.work import Device, Work

ASKED = Example(id="q", question="what?", answer="an answer.")
TWICE = ASKED.model_copy(update={"history": [Turn(question="a?", answer="b.")]})
LOOP = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return ALIKE["tinyswallow"].tokenizer()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "where the answer begins"),
        ("{{ messages[0].content }}", "where the answer begins"),
        ("", "no chat template"),
        ("a text without any variable", "where the answer begins"),
        ("<|im_start|>{{ messages[-1].content if messages[-1].role == 'assistant' }}", "leaves out the question"),
        ("{{ messages[0].nothing.more }}", r"does not render \(UndefinedError"),
        ("{% for %}", r"does not render \(TemplateSyntaxError"),
        ("{{ messages", r"does not render \(TemplateSyntaxError"),
        ("{% unknown %}", r"does not render \(TemplateSyntaxError"),
        ("{{ messages | nothing }}", r"does not render \(TemplateAssertionError"),
        ("{{ 1 / 0 }}", r"does not render \(ZeroDivisionError"),
        ("{{ messages[0].content + 1 }}", r"does not render \(TypeError"),
        ("{{ raise_exception('no') }}", r"refuses the conversation \(no\)"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", r"does not render \(SecurityError"),
        ("{{ strftime_now.__self__.__class__.now().x }}", "does not render"),
        ("{% include '/etc/passwd' %}", "does not render"),
        ("{% import 'os' as os %}", "does not render"),
        ("{% extends 'base' %}", "does not render"),
        ("{{ lipsum(n=100) }}", r"'lipsum' is undefined"),
    ],
)
def test_an_unfit_template_is_one_error_that_says_what_to_set(
    tokenizer: PreTrainedTokenizerFast, template: str, message: str
) -> None:
    tokenizer.chat_template = template
    with pytest.raises(ChatTemplateError, match=message) as caught:
        chat_template(tokenizer)
    assert "plain-ja" in caught.value.fix


def test_a_template_that_forgets_the_earlier_turns_is_refused_for_conversations_alone() -> None:
    forgets = ChatTemplate("{% for m in messages[-2:] %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    assert prompt_text(forgets, ASKED, None) == "<user>what?<assistant>"
    with pytest.raises(ChatTemplateError, match="earlier turns"):
        prompt_text(forgets, TWICE, None)


NS = "{% set ns = namespace(x='a', l=[]) %}{% for i in range(99) %}"
LONG = "{% set a = 'a' * 4000000 %}"

HOSTILE = {
    "range": "{% for i in range(10**9) %}{% endfor %}",
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loops over generators": "{% for i in range(999) %}{% for j in range(999) | map('abs') %}{% endfor %}{% endfor %}",
    "multiplied text": "{{ 'a' * 10000000000000 }}",
    "multiplied list": "{{ ([0] * 10000000000000) | length }}",
    "power": "{{ 10 ** 10 ** 8 }}",
    "squares": "{% set ns = namespace(x=9) %}{% for i in range(64) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "doubled by ~": NS + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubled by +": NS + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubled by a block": NS + "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
    "doubled by format": NS + "{% set ns.x = '{0}{0}'.format(ns.x) %}{% endfor %}",
    "doubled by %": NS + "{% set ns.x = '%s%s' % (ns.x, ns.x) %}{% endfor %}",
    "doubled by join": NS + "{% set ns.x = [ns.x, ns.x] | join %}{% endfor %}",
    "a list of itself": NS + "{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
    "a list of itself as JSON": NS + "{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l | tojson }}",
    "kept slices": LONG + NS + "{% for j in range(999) %}{% set ns.l = [ns.l, a[1:]] %}{% endfor %}{% endfor %}",
    "padded": "{{ 'a'.center(10000000000000) }}",
    "padded by a filter": "{{ 'a' | center(10000000000000) }}",
    "padded by attr": "{{ ('a' | attr('ljust'))(10000000000000) }}",
    "padded by map": "{{ ['a'] | map('center', 10000000000000) | list }}",
    "wide format": "{{ '{:>9999999999999}'.format(1) }}",
    "wide format of a variable": "{{ '{:>{w}}'.format(1, w=9999999999999) }}",
    "wide format of a map": "{{ '{x:>9999999999999}'.format_map({'x': 1}) }}",
    "wide %": "{{ '%9999999999999d' % 1 }}",
    "wide format filter": "{{ '%9999999999999d' | format(1) }}",
    "replaced": LONG + "{{ a.replace('a', a) }}",
    "joined": LONG + "{{ a.join(a) }}",
    "indented": "{{ ('\n' * 2000000) | indent(2000000) }}",
    "batches": "{{ [1] | batch(99999999, 0) | list }}",
    "tabs": "{{ ('\t' * 2000000).expandtabs(2000000) }}",
    "wrapped": "{{ ('a ' * 500000) | wordwrap(1, wrapstring='x' * 4000000) }}",
    "bytes": "{{ (5).to_bytes(9999999999999, 'big') }}",
    "its own text": "{% macro f() %}" + "x" * 99999 + "{% endmacro %}{% for i in range(99999) %}{{ f() }}{% endfor %}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "wide recursion": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "a loop in itself": "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "a block in itself": "{% block a %}{{ self.a() }}{% endblock %}",
    "brackets": "{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}",
    "deep blocks": "{% if 1 %}" * 5000 + "{% endif %}" * 5000,
    "length": "a" * 300_000,
}


@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_template_ends_soon(tokenizer: PreTrainedTokenizerFast, template: str) -> None:
    """The test's own time limit tells a hang; what is made before it is paid for is larger than any memory."""
    tokenizer.chat_template = template + LOOP
    with pytest.raises(ChatTemplateError, match="does not render"):
        chat_template(tokenizer)


def test_a_long_conversation_is_not_taken_for_an_attack() -> None:
    template = chat_template(ALIKE["qwen3"].tokenizer())
    history = [Turn(question="堤防とは？" * 200, answer="氾濫を防ぎます。" * 200) for _ in range(100)]
    assert len(prompt_text(template, ASKED.model_copy(update={"history": history}), "短く。")) > 250_000


def test_a_base_whose_vocabulary_is_missing_is_refused_before_it_trains(tmp_path: Path) -> None:
    folder = tiny.save_base(tmp_path / "inputs" / "base", "qwen2", hidden=64)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        bases.load(_work(tmp_path), quantized=False)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        export_f16(folder, None, tmp_path / "model.gguf")


def test_an_empty_tokenizer_is_refused() -> None:
    """What transformers makes, without a word, of a Qwen2 base whose vocabulary is missing."""
    with pytest.raises(ModelError, match="vocabulary is empty"):
        check_tokenizer(Qwen2Tokenizer())


def test_a_base_whose_tokenizer_names_no_end_is_refused_before_it_trains(tmp_path: Path) -> None:
    folder = tiny.save_base(tmp_path / "inputs" / "base", "llama", hidden=64)
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match="no end token"):
        bases.load(_work(tmp_path), quantized=False)


def test_a_base_without_a_tokenizer_or_a_template_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    folder = tiny.save_base(tmp_path / "inputs" / "base", "llama", hidden=64)
    shutil.move(folder / "chat_template.jinja", tmp_path)
    with pytest.raises(ChatTemplateError, match=r"no chat template.*plain-ja, chatml"):
        bases.load(_work(tmp_path), quantized=False)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        bases.load(_work(tmp_path), quantized=False)


def test_a_tokenizer_that_drops_the_prompt_is_refused() -> None:
    """What stands before the answer must be something in tokens too."""
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate("~answer1")}, []))
    dropping = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="~")
    dropping.chat_template = "{% for m in messages %}{{ m.content }} {{ '~' if m.role == 'assistant' }}{% endfor %}"
    with pytest.raises(ChatTemplateError, match="nothing before the answer"):
        encode(dropping, chat_template(dropping), Example(id="q", question="堤", answer="answer"), None)


def _work(folder: Path) -> Work:
    params = ScoreParams(base=BaseRef(form="folder"), split="test", quantized=False, max_length=64, system_prompt=None)
    return Work(params, folder / "inputs", folder, Device("cpu", 1), lambda position, total, metrics: None)
