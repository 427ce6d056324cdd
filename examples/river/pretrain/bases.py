"""The two bases: one shaped like Qwen2, one like Llama, with a tokenizer and a chat format of their own."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from examples.river.pretrain import text
from examples.river.pretrain.chat import CHATML, LLAMA3, ChatFormat, messages
from examples.river.pretrain.corpus import Corpus
from examples.river.pretrain.tokenizer import train_tokenizer

POSITIONS = 1024
TOKENIZER_DOCUMENTS = 40_000


@dataclass(frozen=True)
class Base:
    """What distinguishes a base. Widths are multiples of 256, so that every llama.cpp k-quant fits every matrix."""

    name: str
    family: str
    form: ChatFormat
    vocabulary: int
    shape: dict[str, int]
    config: Callable[..., PreTrainedConfig]
    model: Callable[..., PreTrainedModel]

    def build_tokenizer(self, corpus: Corpus, seed: int) -> PreTrainedTokenizerFast:
        return train_tokenizer(_tokenizer_text(corpus, seed), self.vocabulary, self.form)

    def build_model(self, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
        """The untrained model in float32; its weights come from torch's random generator."""
        config = self.config(
            vocab_size=len(tokenizer),
            max_position_embeddings=POSITIONS,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **self.shape,
        )
        return self.model(config)


def _tokenizer_text(corpus: Corpus, seed: int) -> list[str]:
    """Generated documents without special tokens, and the roles as often as a chat names them."""
    rng = Random(f"tokenizer:{seed}")
    pieces: list[str] = []
    for _ in range(TOKENIZER_DOCUMENTS):
        document = text.short_document(text.random_fact(corpus, rng), corpus, rng)
        pieces.append(document.text)
        for message in messages(document):
            pieces += [message["role"], "\n", "\n\n", message["content"]]
    return pieces


QWEN2 = Base(
    name="river-qwen2",
    family="Qwen2",
    form=CHATML,
    vocabulary=2048,
    shape={
        "hidden_size": 256,
        "num_hidden_layers": 3,
        "intermediate_size": 768,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    config=Qwen2Config,
    model=Qwen2ForCausalLM,
)

LLAMA = Base(
    name="river-llama",
    family="Llama",
    form=LLAMA3,
    vocabulary=1536,
    shape={
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "intermediate_size": 512,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
    config=LlamaConfig,
    model=LlamaForCausalLM,
)

BASES = {base.name: base for base in (QWEN2, LLAMA)}
