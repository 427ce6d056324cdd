"""Golden prompts, token by token: what a model is trained on, and which tokens carry loss."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from jsm_queue.data.chat_templates import TEMPLATES
from jsm_queue.data.examples import Example, Turn
from jsm_queue.data.readers import read_bench
from jsm_queue.errors import ChatTemplateError, DataError, ModelError
from workers.engine.prompts import ChatTemplate, Encoded, chat_template, check_tokenizer, encode, prompt_text

RIVER = Path(__file__).parents[2] / "examples" / "river"
CHATML = TEMPLATES["chatml"]
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m['role'] }}<|end|>\n\n{{ m['content'] | trim }}<|eot|>"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'].split('</t>')[-1].lstrip('\n') }}<|eot|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n<t>\n\n</t>\n\n{% endif %}"
)
REFUSING = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if m['role'] == 'user' %}[Q]{{ m['content'] }}[A]{% endif %}"
    "{% if m['role'] == 'assistant' %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
FORGETTING = REFUSING.replace("{{ raise_exception('System role not supported') }}", "")
ENDLESS = "{% for m in messages %}{{ 'Q' if m['role'] == 'user' else 'A' }}:{{ m['content'] }}\n{% endfor %}"

SPECIAL = ["<s>", "</s>", "<|start|>", "<|end|>", "<|eot|>", "<|im_start|>", "<|im_end|>"]
WHAT = Example(id="q", question="what?", answer="an answer.")
CHARACTERS = sorted(set("堤防は氾濫を防ぐ。何か\n #?:[]/<>質問回答.,!" + "abcdefghijklmnopqrstuvwxyz" + "QATB"))


def letters(
    template: str | None, eos: str = "</s>", pad: str | None = None, adds_bos: bool = False
) -> PreTrainedTokenizerFast:
    """A tokenizer with one token a character, so that a golden text can be read."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *CHARACTERS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token=eos,
        pad_token=pad or eos,
        additional_special_tokens=SPECIAL[2:],
    )
    tokenizer.chat_template = template
    return tokenizer


def show(tokenizer: PreTrainedTokenizerFast, example: Encoded) -> str:
    """The tokens that carry no loss, "‖", then those that do, each followed by "·" where it is a special one."""
    tokens = tokenizer.convert_ids_to_tokens(example.ids)
    marked = [f"{token}·" if token in SPECIAL else token for token in tokens]
    return "".join(marked[: example.first]) + "‖" + "".join(marked[example.first :])


def golden(tokenizer: PreTrainedTokenizerFast, system: str | None = None, example: Example = WHAT) -> str:
    return show(tokenizer, encode(tokenizer, chat_template(tokenizer), example, system))


def said(question: str, answer: str, **more: object) -> Example:
    return Example.model_validate({"id": "q", "question": question, "answer": answer} | more)


def test_chatml():
    tokenizer = letters(CHATML, eos="<|im_end|>")
    assert golden(tokenizer) == ("<|im_start|>·user\nwhat?<|im_end|>·\n<|im_start|>·assistant\n‖an answer.<|im_end|>·")
    assert golden(tokenizer, "be brief") == (
        "<|im_start|>·system\nbe brief<|im_end|>·\n<|im_start|>·user\nwhat?<|im_end|>·\n"
        "<|im_start|>·assistant\n‖an answer.<|im_end|>·"
    )


@pytest.mark.parametrize("adds_bos", [False, True])
def test_llama3_writes_bos_once_though_tokenizer_adds_it_too(adds_bos: bool):
    tokenizer = letters(LLAMA3, adds_bos=adds_bos)
    prompt = "<s>·<|start|>·user<|end|>·\n\nwhat?<|eot|>·<|start|>·assistant<|end|>·\n\n"
    assert golden(tokenizer) == prompt + "‖an answer.<|eot|>·"


def test_bos_of_the_tokenizer_is_kept_where_the_template_writes_none():
    tokenizer = letters(CHATML, eos="<|im_end|>", adds_bos=True)
    assert golden(tokenizer).startswith("<s>·<|im_start|>·user")


def test_template_that_strips_the_answer():
    assert golden(letters(LLAMA3), None, said("what?", "  an answer.\n")).endswith("\n\n‖an answer.<|eot|>·")


def test_what_only_the_generation_prompt_writes_is_trained_on_too():
    tokenizer = letters(THINKING)
    prompt = "<|start|>·user\nwhat?<|eot|>·\n<|start|>·assistant\n<t>\n\n</t>\n\n"
    assert prompt_text(chat_template(tokenizer), WHAT, None) == prompt.replace("·", "")
    assert golden(tokenizer) == prompt + "‖an answer.<|eot|>·"


def test_an_answer_that_the_template_cuts_is_named():
    tokenizer = letters(THINKING)
    with pytest.raises(DataError, match=r"answer of example q as it is.*<think>"):
        encode(tokenizer, chat_template(tokenizer), said("what?", "<t>hm</t>an answer."), None)
    with pytest.raises(DataError, match="example q"):
        encode(tokenizer, chat_template(tokenizer), said("what?", ""), None)


@pytest.mark.parametrize("template", [CHATML, LLAMA3, THINKING, REFUSING])
def test_end_token_carries_loss_where_pad_is_eos(template: str):
    end = {CHATML: "<|im_end|>", REFUSING: "</s>"}.get(template, "<|eot|>")
    tokenizer = letters(template, eos=end, pad=end)
    encoded = encode(tokenizer, chat_template(tokenizer), WHAT, None)
    assert encoded.ids[-1] == tokenizer.pad_token_id
    assert encoded.ids[encoded.first :].count(encoded.ids[-1]) == 1


def test_answer_equal_to_the_question_is_found_at_its_own_place():
    tokenizer = letters(CHATML, eos="<|im_end|>")
    encoded = encode(tokenizer, chat_template(tokenizer), said("what?", "what?"), "what?")
    assert show(tokenizer, encoded).endswith("assistant\n‖what?<|im_end|>·")


@pytest.mark.parametrize("template", [REFUSING, FORGETTING])
def test_system_prompt_goes_into_the_question_where_the_template_does_not_take_it(template: str):
    assert golden(letters(template), "be brief") == "<s>·[Q]be brief\n\nwhat?[A]‖ an answer. </s>·"
    assert golden(letters(template)) == "<s>·[Q]what?[A]‖ an answer. </s>·"


def test_template_without_an_end_gets_eos_right_after_the_answer():
    assert golden(letters(ENDLESS)) == "Q:what?\nA:‖an answer.</s>·"
    assert golden(letters(ENDLESS, adds_bos=True)) == "<s>·Q:what?\nA:‖an answer.</s>·"


def test_plain_ja():
    tokenizer = letters(None, adds_bos=True)
    template = chat_template(tokenizer, TEMPLATES["plain-ja"])
    encoded = encode(tokenizer, template, said("何か?", "堤防。"), "be brief")
    assert show(tokenizer, encoded) == "<s>·be brief\n\n### 質問\n何か?\n\n### 回答\n‖堤防。</s>·"
    assert prompt_text(template, said("何か?", ""), None) == "### 質問\n何か?\n\n### 回答\n"


def test_replacement_wins_over_the_bases_own_template():
    tokenizer = letters(CHATML)
    assert prompt_text(chat_template(tokenizer, ENDLESS), WHAT, None) == "Q:what?\nA:"


@pytest.mark.parametrize("adds_bos", [False, True])
def test_key_facts_tokens(adds_bos: bool):
    tokenizer = letters(LLAMA3, adds_bos=adds_bos)
    encoded = encode(
        tokenizer, chat_template(tokenizer), said("堤防は何?", "堤防は氾濫を防ぐ。", key_facts=[["洪水", "氾濫"]]), None
    )
    assert "".join(tokenizer.convert_ids_to_tokens([encoded.ids[i] for i in encoded.key])) == "氾濫"


def test_key_facts_tokens_of_a_tokenizer_that_splits_characters():
    tokenizer = bytes_tokenizer()
    encoded = encode(
        tokenizer, chat_template(tokenizer), said("堤防は何?", "堤防は氾濫を防ぐ。", key_facts=[["氾濫"]]), None
    )
    assert tokenizer.decode([encoded.ids[i] for i in encoded.key]) == "氾濫"
    assert len(encoded.key) == 6


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate([*SPECIAL, *alphabet])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="<|im_end|>", additional_special_tokens=SPECIAL[2:]
    )
    tokenizer.chat_template = CHATML
    return tokenizer


@given(
    question=st.text(),
    answer=st.text(min_size=1),
    system=st.none() | st.text(),
    history=st.lists(st.tuples(st.text(), st.text()), max_size=3),
)
def test_loss_covers_exactly_the_last_answer(
    question: str, answer: str, system: str | None, history: list[tuple[str, str]]
):
    tokenizer = bytes_tokenizer()
    example = said(question, answer, history=[Turn(question=q, answer=a) for q, a in history])
    encoded = encode(tokenizer, chat_template(tokenizer), example, system)
    prompt = prompt_text(chat_template(tokenizer), example, system)
    assert encoded.ids[: encoded.first] == tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(encoded.ids[encoded.first : -1], clean_up_tokenization_spaces=False) == answer
    assert encoded.ids[-1] == tokenizer.eos_token_id


def test_history_is_context_and_an_own_system_prompt_replaces_the_studys():
    example = said("what?", "an answer.", history=[Turn(question="a?", answer="b.")], system="of its own")
    prompt = (
        "<|im_start|>·system\nof its own<|im_end|>·\n<|im_start|>·user\na?<|im_end|>·\n"
        "<|im_start|>·assistant\nb.<|im_end|>·\n<|im_start|>·user\nwhat?<|im_end|>·\n<|im_start|>·assistant\n"
    )
    assert golden(letters(CHATML, eos="<|im_end|>"), "be brief", example) == prompt + "‖an answer.<|im_end|>·"
    assert golden(letters(REFUSING), "be brief", example) == (
        "<s>·[Q]of its own\n\na?[A] b. </s>·[Q]what?[A]‖ an answer. </s>·"
    )


def test_base_without_template():
    with pytest.raises(ChatTemplateError, match=r"no chat template.*plain-ja"):
        chat_template(letters(None))


def test_no_end_token_anywhere():
    tokenizer = letters(ENDLESS)
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="ends an answer"):
        encode(tokenizer, chat_template(tokenizer), WHAT, None)
    with pytest.raises(ModelError, match="no end token"):
        check_tokenizer(tokenizer)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        ("{{ {'b': '防', 'a': [1]} | tojson }}", '{"b": "防", "a": [1]}'),
        ("{{ {'b': 1, 'a': 2} | tojson(ensure_ascii=True, separators=(',', ':'), sort_keys=true) }}", '{"a":2,"b":1}'),
        ("{{ 'a' ~ 1 ~ none ~ [x] | length }}{{ nothing }}", "a1None1"),
        ("{% for m in messages[::-1] if m.role == 'user' %}{{ loop.length }}{% break %}{% endfor %}", "1"),
        (
            "{% for k, v in {'a': 1}.items() %}{{ k }}{{ '%s-%02d' % (k, v) }}{{ '{:>3}'.format(v) }}{% endfor %}",
            "aa-01  1",
        ),
        ("{% for a in messages | map(attribute='role') %}{{ a }}{% else %}none{% endfor %}", "user"),
        ("{% set x %}a{{ 2 ** 3 }}{% endset %}{{ x | upper | replace('A', 'b') }}", "b8"),
        (
            "{% macro f(a, b=2) %}{{ a + b }}{{ caller() if caller }}{% endmacro %}"
            "{{ f(1) }}{% call f(2) %}!{% endcall %}",
            "34!",
        ),
        ("{% for x in nothing %}{{ x }}{% endfor %}{% filter trim %} a {% endfilter %}", "a"),
    ],
)
def test_functions_that_templates_call(expression: str, expected: str):
    template = ChatTemplate(expression + "{{ messages[0].content }}{{ messages[1].content if messages[1] }}")
    assert prompt_text(template, WHAT, None) == expected + "what?"


def test_generation_blocks_pass_through():
    marked = CHATML.replace("{{ message['content'] }}", "{% generation %}{{ message['content'] }}{% endgeneration %}")
    assert golden(letters(marked, eos="<|im_end|>")) == golden(letters(CHATML, eos="<|im_end|>"))


@pytest.mark.parametrize("make", [lambda: letters(CHATML), lambda: letters(LLAMA3), bytes_tokenizer])
def test_same_text_as_transformers_renders(make: Callable[[], PreTrainedTokenizerFast]):
    tokenizer = make()
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what?"}]
    theirs = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt_text(chat_template(tokenizer), WHAT, "be brief") == theirs


@pytest.mark.parametrize(
    ("base", "system", "digest"),
    [
        ("river-qwen2", None, "32cce6687e47c15c5a631288470e745f4b5e41343b1aa6bf6fe206d1b33584d6"),
        ("river-qwen2", "短く答えてください。", "a9a86e8346f55a9561c325e42dbcf5827d97bc9201dde02d068f122460dd9e86"),
        ("river-llama", None, "7d535a79c0f7f8162ae8a2c6d6e94854f144db3ccb0cb7c7070ad2e388aefc1e"),
        ("river-llama", "短く答えてください。", "59096d430e75e61eb629601697a06acdc8095c40267293423aa395d061c9697b"),
    ],
)
def test_the_tokens_of_the_shipped_bases_never_change(base: str, system: str | None, digest: str):
    """What their results were computed from: another digest is another version of train, score, parity and answer."""
    tokenizer = AutoTokenizer.from_pretrained(RIVER / "bases" / base)
    template = chat_template(tokenizer)
    every = [encode(tokenizer, template, example, system) for example in read_bench(RIVER / "bench.yaml")]
    rows = [[each.ids, each.first, list(each.key)] for each in every]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest() == digest
