"""A GGUF in this process, held to JSON by a grammar, greedy: equal questions get equal judgements."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import llama_cpp

from jsm_queue.data.examples import Example
from jsm_queue.errors import ModelError
from jsm_queue.kinds import JudgeParams
from workers.engine.prompts import ChatTemplate, prompt_text
from workers.gguf.llama import last_log, place, start_library
from workers.judges.judgement import Judge, Judgement, read_judgement
from workers.judges.prompt import Prompt, judge_prompt
from workers.work import Device, Work

CONTEXT = 8192
"""Tokens of rubric, case and judgement together. Keys and values of an 8B model take 1 GiB."""

OUTPUT_TOKENS = 1024
"""Room for the judgement: a reason of 300 characters of Japanese, three tokens each where the vocabulary lacks them."""

GRAMMAR = r"""
root ::= "{\"reason\": \"" sign{1,300} "\", \"score\": " [0-3] "}"
sign ::= [^"\\\x00-\x1f\x7f] | "\\" ["\\/n]
"""
"""`judgement.SCHEMA`, tighter: the bindings' own translation allows raw line breaks in a string, which are no JSON."""


@contextmanager
def open_judge(work: Work) -> Iterator[Judge]:
    """Loads `inputs/judge/judge.gguf`. Raises ModelError for a file that llama.cpp refuses or without a template."""
    params: JudgeParams = work.params
    model = _load(work.inputs / "judge" / "judge.gguf", work.device)
    grammar = llama_cpp.LlamaGrammar.from_string(GRAMMAR, verbose=False)
    try:
        template = _template(model)

        def judge(example: Example, answer: str) -> Judgement:
            return _judge(
                model, grammar, prompt_ids(model, template, judge_prompt(params.rubric or "", example, answer))
            )

        yield judge
    finally:
        model.close()


def _judge(model: llama_cpp.Llama, grammar: llama_cpp.LlamaGrammar, ids: list[int]) -> Judgement:
    room = model.n_ctx() - len(ids)
    if room < OUTPUT_TOKENS:
        output = f"rubric, question and answer are {len(ids)} tokens; {model.n_ctx() - OUTPUT_TOKENS} fit"
        return Judgement(None, problem="error", output=output)
    model.reset()  # what an earlier question left must not act on this one, not even by rounding
    made: Any = model.create_completion(ids, temperature=0.0, max_tokens=OUTPUT_TOKENS, grammar=grammar)
    choice = made["choices"][0]
    return read_judgement(choice["text"], cut=choice["finish_reason"] == "length")


def prompt_ids(model: llama_cpp.Llama, template: ChatTemplate, prompt: Prompt) -> list[int]:
    """The conversation in tokens, BOS once. Signs of the case are never special tokens: an answer ends no turn.

    Raises ModelError for a template that does not write the question as it is.
    """
    stand_in = next(word for word in map("JSMCASE{}X".format, count()) if word not in prompt.system + template.text)
    asked = Example(id="case", question=stand_in, answer="")
    around = prompt_text(template, asked, prompt.system).split(stand_in)
    if len(around) != 2:
        raise ModelError("the chat template of the judge's GGUF does not write a question once", "Take another judge")
    before, after = (model.tokenize(text.encode("utf-8"), add_bos=False, special=True) for text in around)
    case = model.tokenize(prompt.case.encode("utf-8"), add_bos=False, special=False)
    lead = model.tokenize(b"", add_bos=True, special=True)
    return [*([] if before[: len(lead)] == lead else lead), *before, *case, *after]


def _template(model: llama_cpp.Llama) -> ChatTemplate:
    text = model.metadata.get("tokenizer.chat_template")
    if not text:
        raise ModelError("the judge's GGUF holds no chat template", "Take an instruction-tuned judge")
    tokens = {"bos_token": model.token_bos(), "eos_token": model.token_eos()}
    specials = {
        name: model.detokenize([token], special=True).decode("utf-8") for name, token in tokens.items() if token >= 0
    }
    return ChatTemplate(text, tuple((name, special) for name, special in specials.items() if special))


def _load(path: Path, device: Device) -> llama_cpp.Llama:
    start_library()
    on_gpu = place(device) == "cuda"
    try:
        return llama_cpp.Llama(
            str(path),
            n_ctx=CONTEXT,
            n_gpu_layers=-1 if on_gpu else 0,
            split_mode=llama_cpp.LLAMA_SPLIT_MODE_NONE,
            main_gpu=int(device.name.partition(":")[2] or 0) if on_gpu else 0,
            n_threads=device.threads,
            n_threads_batch=device.threads,
            seed=0,
            verbose=False,
        )
    except ValueError as error:
        if "allocate" in last_log() or "llama_context" in str(error):
            raise MemoryError(f"llama.cpp: out of memory for the judge: {last_log()}") from error
        raise ModelError(
            f"llama.cpp cannot load the judge: {last_log()}", "Give another GGUF as judge.source"
        ) from error
