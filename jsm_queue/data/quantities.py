"""Numbers with units: "3〜5m", "１，５００㎥/s", "三十年", "毎秒300立方メートル"."""

import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal

from jsm_queue.data.numerals import KANJI, NUMERAL, parse, plain
from jsm_queue.data.units import COUNTERS, ONLY_COUNTED, PER_PREFIX, UNIT, canonical

_LONGEST_TAIL = 60
"""Characters that a number with its unit takes at most, as it is written."""

_RANGE = r"[ \t]*(?:~|〜|-|–|—|から|ないし)[ \t]*"
_QUANTITY = rf"(?:(?P<low>{NUMERAL}){_RANGE})?(?P<high>{NUMERAL})[ \t]*{UNIT}"
_BEFORE = rf"(?<![0-9{KANJI}第])(?<![0-9][.,])(?:(?<![数何幾])|(?=[0-9]))"
_PATTERN = re.compile(rf"(?:(?P<every>{'|'.join(PER_PREFIX)})約?)?{_BEFORE}{_QUANTITY}")
_LEADING = re.compile(_QUANTITY)


@dataclass(frozen=True)
class Quantity:
    """A number with its unit. `written`: as the text has it, in half width, without spaces."""

    value: Decimal
    unit: str
    written: str

    @property
    def key(self) -> str:
        """Equal for equal quantities however they are written: "1500m" of "1,500 メートル"."""
        return f"{plain(self.value)}{self.unit}"


def quantities(text: str) -> list[Quantity]:
    """The numbers with units in a text, in its order; a range states both of its ends.

    No number: an ordinal (第3回), a few (数十年), a fraction (3分の1), and a lone kanji that makes a word (一度, 十分).
    """
    return [quantity for match in _PATTERN.finditer(_folded(text)) for quantity in _of(match, match["every"])]


def leading(text: str) -> Quantity | None:
    """The number with unit that the text begins with. Of a range its first end."""
    match = _LEADING.match(_folded(text[:_LONGEST_TAIL]))
    return next(iter(_of(match)), None) if match else None


def trailing(text: str) -> Quantity | None:
    """The number with unit that the text ends with. Of a range its last end."""
    last = None
    for match in _PATTERN.finditer(_folded(text).rstrip()):
        last = match if match.end() == len(match.string) else None
    found = _of(last) if last else []
    return found[-1] if found else None


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _of(match: re.Match[str], every: str | None = None) -> list[Quantity]:
    unit = canonical(match)
    if every and "/" not in unit:
        unit = f"{'km' if unit == 'キロ' else unit}/{PER_PREFIX[every]}"
    suffix = match.group()[match.end("high") - match.start() :].strip()
    numerals = [numeral for numeral in (match["low"], match["high"]) if numeral and _counts(numeral, unit)]
    parsed = [(parse(numeral), f"{every or ''}{numeral}{suffix}") for numeral in numerals]
    return [Quantity(value, unit, written) for value, written in parsed if value is not None]


def _counts(numeral: str, unit: str) -> bool:
    """A lone kanji before a counter is mostly a part of a word."""
    if len(numeral) > 1 or numeral in "0123456789":
        return True
    return unit not in COUNTERS or (unit not in ONLY_COUNTED and numeral != "一")
