"""One question with its reference answer, and the JSONL files that hold such examples."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from jsm_queue.canonical import canonical_json
from jsm_queue.errors import DataError
from jsm_queue.files import write_whole

Stratum = Literal["taught", "unseen", ""]


class Turn(BaseModel):
    """An earlier question of a conversation, and the answer it got."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str
    answer: str


class Example(BaseModel):
    """A question and its reference answer.

    `history`: the turns before the question, oldest first, which are context and carry no loss. `system`: the
    conversation's own system prompt, which replaces the study's; None where it has none.

    `key_facts`: what a right answer must contain, each a list of accepted spellings. `stratum`: "taught"
    when the training data states the facts in other words, "unseen" when it shares none of them, "" when
    that is not known. `relation`: the relation type of a question made from a graph. `facts`: the triples
    that answer it, each as "subject relation object"; empty where facts are not known. `conversation`: what
    the examples of one conversation share; "" for one that stands alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    question: str
    answer: str
    history: list[Turn] = []
    system: str | None = None
    key_facts: list[list[str]] = []
    stratum: Stratum = ""
    category: str = ""
    relation: str = ""
    facts: list[str] = []
    conversation: str = ""

    @property
    def unit(self) -> str:
        """What stays on one side of a split: the conversation, or the example where it stands alone."""
        return self.conversation or self.id

    @property
    def questions(self) -> list[str]:
        """The questions of the conversation up to this one."""
        return [*(turn.question for turn in self.history), self.question]

    @property
    def group(self) -> str:
        """What subsets are stratified by: the relation, or the category where there is none."""
        return self.relation or self.category


def read_examples(path: Path) -> list[Example]:
    """The examples of a JSONL file. Raises DataError that names the line."""
    examples = []
    for number, line in numbered_lines(path):
        try:
            examples.append(Example.model_validate_json(line))
        except ValidationError as error:
            raise DataError(
                f"{path.name}, line {number}: {reasons(error)}",
                "Run the prepare job again to write the file anew",
            ) from error
    return examples


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """One line of JSON an example, UTF-8, the same bytes for the same examples."""
    write_whole(path, b"".join(canonical_json(example.model_dump()) + b"\n" for example in examples))


def read_text(path: Path) -> str:
    """A UTF-8 file's text, without a byte order mark. Raises DataError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})", "Give the path of a readable file") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path.name}, line {line}: not UTF-8 (byte {error.object[error.start]:#04x})",
            "Save the file as UTF-8 (in Excel: CSV UTF-8)",
        ) from error


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1. Raises DataError."""
    lines = read_text(path).split("\n")  # not splitlines(): JSON strings may hold U+2028
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def reasons(error: ValidationError) -> str:
    """What is wrong, on one line."""
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'line'}: {item['msg']}" for item in error.errors())
