"""Does a base know the language and none of the facts, and does LoRA teach them? Figures for the model card."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple, cast

import torch
from peft import LoraConfig, PeftModelForCausalLM
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from examples.river.pretrain import text
from examples.river.pretrain.corpus import Corpus, Wording

IGNORED = -100
MAX_ANSWER_TOKENS = 16
PROBE_BATCH = 128
TAUGHT_SHARE = 0.8
TEST_WORDINGS = 2
CONTEXT_QUESTIONS = 500
SIZES = (125, 250, 500, 1000)
SEEDS = 3


class Pair(NamedTuple):
    question: str
    answer: str
    key: str


class Questions(NamedTuple):
    """train: every train wording of the taught facts, shuffled. taught and unseen: held-out wordings."""

    train: list[Pair]
    taught: list[Pair]
    unseen: list[Pair]


class Result(NamedTuple):
    """nll: nats per byte of the answers. recall: share of greedy answers that hold the key fact."""

    nll: float
    recall: float


@dataclass(frozen=True)
class Training:
    rank: int = 16
    alpha: int = 32
    rate: float = 2e-3
    epochs: int = 5
    batch: int = 16
    warmup: float = 0.05


class Lesson(NamedTuple):
    """What a LoRA trained on so many pairs answers, as means over the seeds."""

    pairs: int
    taught: Result
    unseen: Result


@dataclass(frozen=True)
class Probes:
    """context, taught and unseen: the base itself."""

    context: Result
    taught: Result
    unseen: Result
    training: Training
    seeds: int
    lessons: list[Lesson]


def run_probes(load: Callable[[], PreTrainedModel], tokenizer: PreTrainedTokenizerFast, corpus: Corpus) -> Probes:
    """Measure the base, then teach a fresh copy of it for every size and seed."""
    base, questions, training = load(), river_questions(corpus, seed=0), Training()
    lessons = []
    for pairs in SIZES:
        runs = [
            _examine(teach(load(), tokenizer, questions.train[:pairs], training, seed), tokenizer, questions)
            for seed in range(SEEDS)
        ]
        lessons.append(Lesson(pairs, _mean([taught for taught, _ in runs]), _mean([unseen for _, unseen in runs])))
    context = measure(base, tokenizer, context_questions(corpus, CONTEXT_QUESTIONS, seed=0))
    return Probes(context, *_examine(base, tokenizer, questions), training, SEEDS, lessons)


def _examine(
    model: PreTrainedModel | PeftModelForCausalLM, tokenizer: PreTrainedTokenizerFast, questions: Questions
) -> tuple[Result, Result]:
    return measure(model, tokenizer, questions.taught), measure(model, tokenizer, questions.unseen)


def _mean(results: Sequence[Result]) -> Result:
    return Result(*(sum(values) / len(results) for values in zip(*results, strict=True)))


def river_questions(corpus: Corpus, seed: int) -> Questions:
    """The corpus' facts, split into taught and unseen, as question-answer pairs."""
    facts = [
        text.Fact(relation, subject, min(targets))
        for relation in corpus.relations
        for subject, targets in relation.truth.items()
    ]
    rng = Random(f"probe:{seed}")
    rng.shuffle(facts)
    cut = round(TAUGHT_SHARE * len(facts))
    train = [_pair(fact, wording) for fact in facts[:cut] for wording in fact.relation.taught]
    rng.shuffle(train)
    return Questions(train, _tests(facts[:cut], rng), _tests(facts[cut:], rng))


def _tests(facts: Sequence[text.Fact], rng: Random) -> list[Pair]:
    return [_pair(fact, wording) for fact in facts for wording in rng.sample(fact.relation.held_out, TEST_WORDINGS)]


def _pair(fact: text.Fact, wording: Wording) -> Pair:
    return Pair(wording.question.format(subject=fact.subject), wording.answer.format(object=fact.object), fact.object)


def context_questions(corpus: Corpus, count: int, seed: int) -> list[Pair]:
    """Random facts stated in the question itself: what a base must answer without knowing any."""
    rng = Random(f"context:{seed}")
    pairs = []
    for _ in range(count):
        facts = text.related_facts(corpus, rng.randint(1, 4), rng)
        asked = rng.choice(facts)
        turn = text.ask(asked, corpus, rng)
        pairs.append(Pair("".join(map(text.state, facts)) + turn.question, turn.answer, asked.object))
    return pairs


def prompt_ids(pair: Pair, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    message = [{"role": "user", "content": pair.question}]
    prompt = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    return tokenizer.backend_tokenizer.encode(str(prompt), add_special_tokens=False).ids


def answer_ids(pair: Pair, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The answer and its end token."""
    return tokenizer.backend_tokenizer.encode(pair.answer + str(tokenizer.eos_token), add_special_tokens=False).ids


def collate(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerFast, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and labels, both (pairs, length); the loss covers the answer and its end token alone."""
    ids, labels = [], []
    for pair in pairs:
        prompt, answer = prompt_ids(pair, tokenizer), answer_ids(pair, tokenizer)
        ids.append(torch.tensor(prompt + answer))
        labels.append(torch.tensor([IGNORED] * len(prompt) + answer))
    return pad_sequence(ids, True, 0).to(device), pad_sequence(labels, True, IGNORED).to(device)


def answer_loss(model: torch.nn.Module, ids: Tensor, labels: Tensor, reduction: str) -> Tensor:
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()  # (pairs, length - 1, V)
    return functional.cross_entropy(
        logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction=reduction
    )


@torch.inference_mode()
def measure(
    model: PreTrainedModel | PeftModelForCausalLM, tokenizer: PreTrainedTokenizerFast, pairs: Sequence[Pair]
) -> Result:
    model.eval()
    nats, found = 0.0, 0
    for start in range(0, len(pairs), PROBE_BATCH):
        some = pairs[start : start + PROBE_BATCH]
        nats += answer_loss(model, *collate(some, tokenizer, model.device), "sum").item()
        found += sum(pair.key in answer for pair, answer in zip(some, answers(model, tokenizer, some), strict=True))
    return Result(nats / sum(len(pair.answer.encode()) for pair in pairs), found / len(pairs))


@torch.inference_mode()
def answers(
    model: PreTrainedModel | PeftModelForCausalLM, tokenizer: PreTrainedTokenizerFast, pairs: Sequence[Pair]
) -> list[str]:
    """Greedy answers without their end token."""
    prompts = [{"input_ids": prompt_ids(pair, tokenizer)} for pair in pairs]
    batch = tokenizer.pad(prompts, padding_side="left", return_tensors="pt").to(model.device)
    output = cast(Any, model).generate(**batch, do_sample=False, max_new_tokens=MAX_ANSWER_TOKENS)
    return tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)


def teach(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, pairs: Sequence[Pair], training: Training, seed: int
) -> PeftModelForCausalLM:
    """The model with a LoRA adapter on every linear layer, trained on the pairs; its own weights stay as they are."""
    torch.manual_seed(seed)
    adapter = LoraConfig(r=training.rank, lora_alpha=training.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    peft = PeftModelForCausalLM(model, adapter)
    optimizer = torch.optim.AdamW([p for p in peft.parameters() if p.requires_grad], lr=training.rate, weight_decay=0.0)
    steps = training.epochs * math.ceil(len(pairs) / training.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, training.warmup))
    peft.train()
    for some in _batches(pairs, training, seed):
        answer_loss(peft, *collate(some, tokenizer, model.device), "mean").backward()
        torch.nn.utils.clip_grad_norm_(peft.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
    return peft


def _rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate: linear warm-up over a share of the steps, then half a cosine to zero."""
    first = max(1, round(warmup * steps))
    if step < first:
        return (step + 1) / first
    return 0.5 + 0.5 * math.cos(math.pi * (step - first) / max(1, steps - first))


def _batches(pairs: Sequence[Pair], training: Training, seed: int) -> Iterator[list[Pair]]:
    rng = Random(seed)
    for _ in range(training.epochs):
        order = rng.sample(list(pairs), len(pairs))
        for start in range(0, len(order), training.batch):
            yield order[start : start + training.batch]
