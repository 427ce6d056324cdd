"""What decides how a corpus becomes a dataset."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PrepareOptions:
    """The defaults are those of a spec's `data`.

    `validation`, `test_taught`, `test_unseen`: numbers of examples (of a user's question–answer pairs,
    `test_unseen` are held out as the test, and `test_taught` does not concern them). `near_duplicate`:
    character-bigram Jaccard from which two questions are near duplicates. `max_answer_chars`: longer answers
    are listed.
    """

    seed: int = 0
    validation: int = 60
    test_taught: int = 60
    test_unseen: int = 60
    near_duplicate: float = 0.8
    max_answer_chars: int = 1000
