"""Golden prompts, token by token: what a model is trained on, and which tokens carry loss."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from jsm_queue.data.chat_templates import TEMPLATES
from jsm_queue.errors import ModelError
from workers.engine.prompts import ChatTemplate, Encoded, chat_template, conversation, encode, prompt_text

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


def golden(tokenizer: PreTrainedTokenizerFast, system: str | None = None, answer: str = "an answer.") -> str:
    return show(tokenizer, encode(tokenizer, chat_template(tokenizer), "what?", answer, system))


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
    assert golden(letters(LLAMA3), answer="  an answer.\n").endswith("\n\n‖an answer.<|eot|>·")


def test_prompt_that_is_no_prefix_of_the_conversation():
    tokenizer = letters(THINKING)
    template = chat_template(tokenizer)
    prompt = prompt_text(template, "what?", None)
    assert prompt.endswith("<t>\n\n</t>\n\n")
    assert not conversation(template, "what?", "an answer.", None).text.startswith(prompt)
    assert golden(tokenizer) == "<|start|>·user\nwhat?<|eot|>·\n<|start|>·assistant\n‖an answer.<|eot|>·"


@pytest.mark.parametrize("template", [CHATML, LLAMA3, THINKING, REFUSING])
def test_end_token_carries_loss_where_pad_is_eos(template: str):
    end = {CHATML: "<|im_end|>", REFUSING: "</s>"}.get(template, "<|eot|>")
    tokenizer = letters(template, eos=end, pad=end)
    encoded = encode(tokenizer, chat_template(tokenizer), "what?", "an answer.", None)
    assert encoded.ids[-1] == tokenizer.pad_token_id
    assert encoded.ids[encoded.first :].count(encoded.ids[-1]) == 1


def test_answer_equal_to_the_question_is_found_at_its_own_place():
    tokenizer = letters(CHATML, eos="<|im_end|>")
    encoded = encode(tokenizer, chat_template(tokenizer), "what?", "what?", "what?")
    assert show(tokenizer, encoded).endswith("assistant\n‖what?<|im_end|>·")


@pytest.mark.parametrize("template", [REFUSING, FORGETTING])
def test_system_prompt_goes_into_the_question_where_the_template_does_not_take_it(template: str):
    assert golden(letters(template), "be brief") == "<s>·[Q]be brief\n\nwhat?[A] ‖an answer. </s>·"
    assert golden(letters(template)) == "<s>·[Q]what?[A] ‖an answer. </s>·"


def test_template_without_an_end_gets_eos_right_after_the_answer():
    assert golden(letters(ENDLESS)) == "Q:what?\nA:‖an answer.</s>·"
    assert golden(letters(ENDLESS, adds_bos=True)) == "<s>·Q:what?\nA:‖an answer.</s>·"


def test_plain_ja():
    tokenizer = letters(None, adds_bos=True)
    template = chat_template(tokenizer, TEMPLATES["plain-ja"])
    encoded = encode(tokenizer, template, "何か?", "堤防。", "be brief")
    assert show(tokenizer, encoded) == "<s>·be brief\n\n### 質問\n何か?\n\n### 回答\n‖堤防。</s>·"
    assert prompt_text(template, "何か?", None) == "### 質問\n何か?\n\n### 回答\n"


def test_replacement_wins_over_the_bases_own_template():
    tokenizer = letters(CHATML)
    assert prompt_text(chat_template(tokenizer, ENDLESS), "what?", None) == "Q:what?\n"


@pytest.mark.parametrize("adds_bos", [False, True])
def test_key_facts_tokens(adds_bos: bool):
    tokenizer = letters(LLAMA3, adds_bos=adds_bos)
    encoded = encode(tokenizer, chat_template(tokenizer), "堤防は何?", "堤防は氾濫を防ぐ。", None, [["洪水", "氾濫"]])
    assert "".join(tokenizer.convert_ids_to_tokens([encoded.ids[i] for i in encoded.key])) == "氾濫"


def test_key_facts_tokens_of_a_tokenizer_that_splits_characters():
    tokenizer = bytes_tokenizer()
    encoded = encode(tokenizer, chat_template(tokenizer), "堤防は何?", "堤防は氾濫を防ぐ。", None, [["氾濫"]])
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


@given(question=st.text(), answer=st.text(min_size=1), system=st.none() | st.text())
def test_loss_covers_exactly_the_answer(question: str, answer: str, system: str | None):
    tokenizer = bytes_tokenizer()
    encoded = encode(tokenizer, chat_template(tokenizer), question, answer, system)
    assert tokenizer.decode(encoded.ids[encoded.first : -1], clean_up_tokenization_spaces=False) == answer
    assert encoded.ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m['content'] }}{{ m['content'] }}{% endfor %}", "where the answer begins"),
        ("{{ messages[0]['content'] }}", "where the answer begins"),
        ("{{ messages[0]['nothing']['more'] }}", "does not render"),
        ("{% for %}", "does not render"),
        ("{{ 1 / 0 }}", "does not render"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "does not render"),
        ("{{ raise_exception('no') }}", "refuses the conversation"),
        ("{{ messages[-1]['content'] }}{{ eos_token }}", "nothing before the answer"),
    ],
)
def test_unfit_templates_are_model_errors(template: str, message: str):
    tokenizer = letters(template)
    with pytest.raises(ModelError, match=message):
        encode(tokenizer, chat_template(tokenizer), "what?", "an answer.", None)


def test_base_without_template():
    with pytest.raises(ModelError, match=r"no chat template.*plain-ja"):
        chat_template(letters(None))


def test_no_end_token_anywhere():
    tokenizer = letters(ENDLESS)
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="ends an answer"):
        encode(tokenizer, chat_template(tokenizer), "what?", "an answer.", None)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"), ("{{ {'a': '防'} | tojson }}", '{"a": "防"}')],
)
def test_functions_that_templates_call(expression: str, expected: str):
    assert prompt_text(ChatTemplate(expression), "what?", None) == expected


def test_generation_blocks_pass_through():
    marked = CHATML.replace("{{ message['content'] }}", "{% generation %}{{ message['content'] }}{% endgeneration %}")
    assert golden(letters(marked, eos="<|im_end|>")) == golden(letters(CHATML, eos="<|im_end|>"))


@pytest.mark.parametrize("make", [lambda: letters(CHATML), lambda: letters(LLAMA3), bytes_tokenizer])
def test_same_text_as_transformers_renders(make: Callable[[], PreTrainedTokenizerFast]):
    tokenizer = make()
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what?"}]
    theirs = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt_text(chat_template(tokenizer), "what?", "be brief") == theirs
