"""Numbers as Japanese text writes them: "1,500", "二十三", "二〇", "2億3千万"."""

import re
from decimal import Decimal

DIGITS = "〇一二三四五六七八九"
MULTIPLIERS = {"十": 10, "百": 100, "千": 1000}
MYRIADS = {"万": 10**4, "億": 10**8, "兆": 10**12}
KANJI = DIGITS + "".join(MULTIPLIERS) + "".join(MYRIADS)
"""the characters of a kanji numeral"""

NUMERAL = rf"[0-9{DIGITS}{''.join(MULTIPLIERS)}](?:[0-9{KANJI}]|[.,](?=[0-9]))*"
"""A regular expression of what may be a number; `parse` says whether it is one."""

_ARABIC = r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?"
_TOKEN = re.compile(rf"({_ARABIC})|([{DIGITS}]+)|([{KANJI}])")


def parse(text: str) -> Decimal | None:
    """The number that a numeral of half-width digits and kanji states; None where it is none ("2,3", "3億5億")."""
    total, section = Decimal(0), Decimal(0)
    current: Decimal | None = None
    last_myriad, place = 10**16, 0
    for match in _TOKEN.finditer(text):
        if match.start() != place:
            return None
        place = match.end()
        arabic, digits, sign = match.groups()
        if sign is None:
            if current is not None:
                return None
            current = Decimal(arabic.replace(",", "") if arabic else "".join(str(DIGITS.index(d)) for d in digits))
        elif sign in MULTIPLIERS:
            section += (1 if current is None else current) * MULTIPLIERS[sign]
            current = None
        else:
            if MYRIADS[sign] >= last_myriad:
                return None
            last_myriad = MYRIADS[sign]
            total += (section + (current or 0)) * last_myriad
            section, current = Decimal(0), None
    return total + section + (current or 0) if place == len(text) else None


def plain(number: Decimal) -> str:
    """ "2.50" → "2.5", "1E+3" → "1000": one spelling a number."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
