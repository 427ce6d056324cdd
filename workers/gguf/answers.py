"""The file of a model's answers: one line of JSON each."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from jsm_queue.canonical import canonical_json
from jsm_queue.data.examples import numbered_lines, reasons, write_whole
from jsm_queue.errors import DataError


class Answer(BaseModel):
    """The whole answer to one question. `tokens` without the end token; `stop` "length": it was cut off."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    text: str
    tokens: int
    stop: Literal["end", "length"]
    prompt_tokens: int


def read_answers(path: Path) -> list[Answer]:
    """The answers of a JSONL file. Raises DataError that names the line."""
    answers = []
    for number, line in numbered_lines(path):
        try:
            answers.append(Answer.model_validate_json(line))
        except ValidationError as error:
            raise DataError(f"{path.name}, line {number}: {reasons(error)}", "Run the answer job again") from error
    return answers


def write_answers(path: Path, answers: Iterable[Answer]) -> None:
    """Writes the file whole: equal bytes for equal answers."""
    write_whole(path, b"".join(canonical_json(answer.model_dump()) + b"\n" for answer in answers))
