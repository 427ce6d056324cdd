"""Text in the form in which answers and questions are compared."""

import re
import unicodedata
from itertools import pairwise

_HALF_WIDTH_SOUND_MARKS = "\uff9e\uff9f"  # NFKC joins them to a kana, though their combining class is 0


def normalize(text: str) -> str:
    """NFKC, then case folding, without any whitespace: the form in which texts are compared."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def normalize_with_origins(text: str) -> tuple[str, list[tuple[int, int]]]:
    """`normalize(text)`, and for each of its characters the span (start, end) of `text` it comes from."""
    characters: list[str] = []
    origins: list[tuple[int, int]] = []
    for start, end in _clusters(text):
        folded = unicodedata.normalize("NFKC", text[start:end]).casefold()
        kept = [character for character in folded if not character.isspace()]
        characters += kept
        origins += [(start, end)] * len(kept)
    return "".join(characters), origins


def _clusters(text: str) -> list[tuple[int, int]]:
    """Spans of a character with the marks that NFKC may join to it."""
    starts = [i for i, character in enumerate(text) if i == 0 or not _joins(character)]
    return list(pairwise([*starts, len(text)]))


def _joins(character: str) -> bool:
    return character in _HALF_WIDTH_SOUND_MARKS or unicodedata.combining(character) != 0


_REPEATED_RUN = re.compile(r"(.{4,30}?)\1{2,}", re.DOTALL)
_REPEATED_SENTENCE_MIN_CHARS = 8


def repeats_itself(text: str) -> bool:
    """True when 4–30 characters stand three times in a row, or a sentence of 8 or more comes twice."""
    if _REPEATED_RUN.search(text):
        return True
    sentences = [s for s in re.split(r"[。！？!?\n]", normalize(text)) if len(s) >= _REPEATED_SENTENCE_MIN_CHARS]
    return len(set(sentences)) < len(sentences)
