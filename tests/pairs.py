"""Question–answer pairs that a study accepts, for tests that need some data and look at other things."""

import json
from typing import Any

from jsm_queue.data.subsets import seeded_rank


def pair(i: int, **changes: Any) -> dict[str, Any]:
    """The i-th pair: of words that no other pair has."""
    word = "".join(chr(0x4E00 + int.from_bytes(seeded_rank(i, str(k))[:2]) % 0x5000) for k in range(6))
    return {"question": f"{word}とは？", "answer": f"{word[::-1]}です。", "key_facts": [word[::-1]]} | changes


def pair_lines(n: int, **changes: Any) -> str:
    """n pairs as JSONL. The defaults of a study hold 120 out, and ask that as many remain."""
    return "".join(json.dumps(pair(i, **changes), ensure_ascii=False) + "\n" for i in range(n))
