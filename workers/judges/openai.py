"""A judge behind a URL that speaks OpenAI's chat protocol.

A question that gets no judgement is counted (`Judgement.problem`). A server that is away, or refuses this worker as
such, ends the attempt instead (SetupError), so that a later one may find it well: an accepted result stays.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import BaseModel, Field, ValidationError

from jsm_queue.data.examples import Example
from jsm_queue.errors import SetupError
from jsm_queue.kinds import JudgeParams
from workers.judges import chat
from workers.judges.judgement import OUTPUT_CHARS, Judge, Judgement, clean, read_judgement
from workers.judges.prompt import judge_prompt
from workers.work import Work

AWAY_AFTER = 3
"""So many questions in a row without an answer, and the server is away."""


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Reply(BaseModel):
    choices: list[_Choice] = Field(min_length=1)


@contextmanager
def open_judge(work: Work) -> Iterator[Judge]:
    """For up to `judge.concurrency` threads. Opening it raises SetupError too, where the key is missing."""
    params: JudgeParams = work.params
    silent = Streak()
    with chat.open_server(params.judge) as server:

        def judge(example: Example, answer: str) -> Judgement:
            prompt = judge_prompt(params.rubric or "", example, answer)
            messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.case}]
            try:
                said = chat.ask(server, messages)
            except chat.Busy as error:
                if silent.add() >= AWAY_AFTER or isinstance(error, chat.Away):
                    raise SetupError(f"the judge at {params.judge.url} is away: {error}", "Look after it") from error
                return Judgement(None, problem="error", output=clean(str(error), OUTPUT_CHARS))
            silent.end()
            return read_answer(said)

        yield judge


class Streak:
    """How often in a row something happened, counted by several threads."""

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()

    def add(self) -> int:
        """Once more; returns how often by now."""
        with self._lock:
            self._count += 1
            return self._count

    def end(self) -> None:
        """The next one is the first again."""
        with self._lock:
            self._count = 0


def read_answer(said: chat.Answer) -> Judgement:
    """The judgement in a server's answer."""
    if not said.whole:
        return Judgement(None, problem="error", output=f"it said more than {chat.MAX_BYTES} bytes")
    if said.status != 200:
        return Judgement(None, problem="error", output=clean(f"it answered {said.status}: {said.text}", OUTPUT_CHARS))
    try:
        choice = _Reply.model_validate_json(said.text).choices[0]
    except ValidationError:
        return Judgement(None, problem="unparsable", output=clean(said.text, OUTPUT_CHARS))
    content = choice.message.content or ""
    if choice.message.refusal or choice.finish_reason == "content_filter":
        return Judgement(None, problem="refused", output=clean(choice.message.refusal or content, OUTPUT_CHARS))
    return read_judgement(content, cut=choice.finish_reason == "length")
