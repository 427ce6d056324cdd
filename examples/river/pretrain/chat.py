"""The two chat formats: ChatML as in Qwen2, and headers as in Llama 3, which writes its own begin-of-text."""

from dataclasses import dataclass

from examples.river.pretrain.text import Document


@dataclass(frozen=True)
class ChatFormat:
    """The special tokens, the pieces around a message, and the same as the Jinja template that ships."""

    special_tokens: tuple[str, ...]
    bos: str
    eos: str
    end_of_text: str
    pad: str
    opening: str
    closing: str
    template: str


CHATML = ChatFormat(
    special_tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    bos="",
    eos="<|im_end|>",
    end_of_text="<|endoftext|>",
    pad="<|endoftext|>",
    opening="<|im_start|>{role}\n",
    closing="<|im_end|>\n",
    template=(
        "{%- for message in messages -%}\n"
        "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}\n"
        "{%- endfor -%}\n"
        "{%- if add_generation_prompt -%}\n"
        "{{- '<|im_start|>assistant\\n' -}}\n"
        "{%- endif -%}\n"
    ),
)

LLAMA3 = ChatFormat(
    special_tokens=(
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<|finetune_right_pad_id|>",
    ),
    bos="<|begin_of_text|>",
    eos="<|eot_id|>",
    end_of_text="<|end_of_text|>",
    pad="<|finetune_right_pad_id|>",
    opening="<|start_header_id|>{role}<|end_header_id|>\n\n",
    closing="<|eot_id|>",
    template=(
        "{{- bos_token -}}\n"
        "{%- for message in messages -%}\n"
        "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}\n"
        "{{- message['content'] | trim + '<|eot_id|>' -}}\n"
        "{%- endfor -%}\n"
        "{%- if add_generation_prompt -%}\n"
        "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}\n"
        "{%- endif -%}\n"
    ),
)


def messages(document: Document) -> list[dict[str, str]]:
    """The document's chat as the messages that a chat template takes."""
    listed = [{"role": "system", "content": document.system}] if document.system else []
    for turn in document.turns:
        listed += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer}]
    return listed


def render(document: Document, form: ChatFormat) -> str:
    """The document with all its special tokens, begin-of-text included: to be encoded without adding any."""
    if document.text:
        return form.bos + document.text + form.end_of_text
    parts = (
        form.opening.format(role=message["role"]) + message["content"] + form.closing for message in messages(document)
    )
    return form.bos + "".join(parts)
