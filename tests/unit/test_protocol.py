"""What a message may not say."""

from typing import Any

import pytest
from pydantic import ValidationError

from jsm_queue.protocol import ResultRequest

NLL = {"item": "q1", "name": "nll", "value": 1.0}
GGUF = {"role": "gguf", "sha": "0" * 64, "size": 1}


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"records": [NLL, NLL | {"value": 2.0}]}, r"record \('q1', 'nll'\) comes more than once"),
        ({"artifacts": [GGUF, GGUF | {"sha": "1" * 64}]}, "artifact 'gguf' comes more than once"),
        ({"records": [NLL | {"item": "q" * 201}]}, "at most 200 characters"),
    ],
)
def test_a_result_that_the_store_could_not_keep_is_not_valid(result: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ResultRequest.model_validate(result)


def test_records_of_one_item_or_one_name_are_no_duplicates() -> None:
    records = [NLL, NLL | {"name": "tokens"}, NLL | {"item": "q2"}]
    assert len(ResultRequest.model_validate({"records": records}).records) == 3
