"""Built-in chat templates, for bases that bring none: name → Jinja text, as `chat_template` in a spec names them."""

TEMPLATES: dict[str, str] = {
    # Headings that any tokenizer can spell: nothing has to be added to the base's vocabulary.
    "plain-ja": (
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ message['content'] }}\n\n"
        "{% elif message['role'] == 'user' %}### 質問\n{{ message['content'] }}\n\n### 回答\n"
        "{% else %}{{ message['content'] }}{{ eos_token }}\n"
        "{% endif %}{% endfor %}"
    ),
    # For bases whose vocabulary holds these two tokens, but whose files name no template.
    "chatml": (
        "{% for message in messages %}"
        "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
}
"""None writes BOS: the tokenizer adds its own where it has one."""
