"""What decides how a corpus becomes a dataset."""

from dataclasses import dataclass, fields
from typing import Self

from jsm_queue.kinds import PrepareParams
from jsm_queue.spec import DataSpec

GRAPH_NEAR_DUPLICATE = 0.6
"""of a graph's questions, whose entity names are masked"""
PAIRS_NEAR_DUPLICATE = 0.8
"""of a user's questions: below it, one wording about two entities counts as one question (docs/data.md)"""


@dataclass(frozen=True)
class PrepareOptions:
    """The defaults are those of a spec's `data`.

    `validation`, `test_taught`, `test_unseen`: numbers of examples (of a user's question–answer pairs,
    `test_unseen` are held out as the test, and `test_taught` does not concern them). `near_duplicate`:
    character-bigram Jaccard from which two questions are near duplicates; None: as fits the corpus.
    `max_answer_chars`: longer answers are listed.
    """

    seed: int = 0
    validation: int = 60
    test_taught: int = 60
    test_unseen: int = 60
    near_duplicate: float | None = None
    max_answer_chars: int = 1000

    @classmethod
    def of(cls, data: DataSpec | PrepareParams) -> Self:
        """Those of a spec or a job."""
        return cls(**{field.name: getattr(data, field.name) for field in fields(cls)})
