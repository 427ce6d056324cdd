"""What every judge gives, and how the text of a language model becomes it."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jsm_queue.data.examples import Example
from workers.work import Work

Problem = Literal["unparsable", "refused", "truncated", "error"]

OUTPUT_CHARS = 500
"""Of an output without a score, what is kept for people."""

REASON_CHARS = 1000
"""Of a reason, what is kept."""

THOUGHT_END = "</think>"
"""Some models think aloud before they answer, where nothing constrains them."""


@dataclass(frozen=True)
class Judgement:
    """A score with its reason; or no score, the problem, and the output that was none.

    `facts`: what else a judge knows of the answer.
    """

    score: float | None
    reason: str = ""
    problem: Problem | None = None
    output: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


Judge = Callable[[Example, str], Judgement]
"""judge(example, answer): the answer is seen whole, with the question, its reference and its key facts."""

OpenJudge = Callable[[Work], AbstractContextManager[Judge]]

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "score": {"type": "integer", "enum": [0, 1, 2, 3]}},
    "required": ["reason", "score"],
    "additionalProperties": False,
}
"""The reason comes first: what a model writes before the score is what the score can rest on."""


class _Verdict(BaseModel):
    model_config = ConfigDict(strict=True)

    reason: str
    score: Annotated[int, Field(ge=0, le=3)]


def read_judgement(text: str, cut: bool) -> Judgement:
    """The judgement that a model wrote. `cut`: its output ended at a limit, so what cannot be read is "truncated".

    Nothing is searched for inside other text: a judge that quotes the answer must not be read as the answer.
    """
    body = _bare(text)
    try:
        verdict = _Verdict.model_validate(json.loads(body, strict=False))
    except (ValidationError, ValueError, RecursionError):
        return Judgement(None, problem="truncated" if cut else "unparsable", output=clean(text, OUTPUT_CHARS))
    return Judgement(verdict.score, clean(verdict.reason, REASON_CHARS))


def _bare(text: str) -> str:
    """Without a thought before it and without a fence of Markdown around it."""
    body = text.strip()
    if body.startswith("<think>"):
        body = body.partition(THOUGHT_END)[2].strip()
    if body.startswith("```") and body.endswith("```"):
        body = body.removeprefix("```").removesuffix("```").removeprefix("json").strip()
    return body


def clean(text: str, limit: int) -> str:
    """The first `limit` characters in a form that every store takes: no NUL, no halves of a character."""
    return text[:limit].replace("\0", "").encode("utf-8", "replace").decode("utf-8")
