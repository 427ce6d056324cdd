from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsm_queue.data.numerals import parse, plain
from jsm_queue.data.quantities import leading, quantities, trailing

ONES = "〇一二三四五六七八九"


def in_kanji(number: int) -> str:
    """A number below 10^16 in kanji, the other way round than `parse`."""
    parts = []
    for sign in ("", "万", "億", "兆"):
        number, four = divmod(number, 10_000)
        if four:
            digits = [(four // 10**k % 10, k) for k in (3, 2, 1, 0)]
            words = [("" if d == 1 and k else ONES[d]) + ("", "十", "百", "千")[k] for d, k in digits if d]
            parts.append("".join(words) + sign)
    return "".join(reversed(parts))


@given(st.integers(1, 10**16 - 1))
def test_a_number_in_kanji_is_the_number(number: int) -> None:
    assert parse(in_kanji(number)) == parse(str(number)) == parse(f"{number:,}") == number
    assert parse("".join(ONES[int(digit)] for digit in str(number))) == number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2億3千万", "230000000"),
        ("1.5万", "15000"),
        ("2.50", "2.5"),
        ("0.05", "0.05"),
        ("1,234.5", "1234.5"),
        ("2,3", None),
        ("1.2.3", None),
        ("3億5億", None),
        ("12三", None),
        ("1,2345", None),
    ],
)
def test_numerals(text: str, expected: str | None) -> None:
    number = parse(text)
    assert (None if number is None else plain(number)) == expected


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("高さは１，５００ ｍです。", ["1500m"]),
        ("勾配は2.5%、流量は300m³/s。", ["2.5%", "300m3/s"]),
        ("200年に一度、3.5メートル", ["200年", "3.5m"]),
        ("3〜5m、3～5 ｍ、3ｍから5m、3-5m", ["3m", "5m"] * 4),
        ("十〜二十センチ", ["10cm", "20cm"]),
        ("三十年から五十年、二〇年間", ["30年", "50年", "20年"]),
        ("2億3千万円、1億2000万円、億円", ["230000000円", "120000000円"]),
        ("毎秒約300立方メートル、300㎥/s、三百立方メートル毎秒", ["300m3/s"] * 3),
        ("100㎡、100平方メートル、100 m2、100平米", ["100m2"] * 4),
        ("10ha、１０㌶、10ヘクタール", ["10ha"] * 3),
        ("8％、８%、八パーセント", ["8%"] * 3),
        ("30℃と30度", ["30°c", "30度"]),
        ("5m30cm、5mm、5m/s、50kN/m2、0.05mg/L", ["5m", "30cm", "5mm", "5m/s", "50kn/m2", "0.05mg/l"]),
        ("時速50キロ、50km/h", ["50km/h"] * 2),
        ("3か月、3ヶ月間、3カ月", ["3か月"] * 3),
        ("6月から10月、2019年度、15,000人、5千人", ["6月", "10月", "2019年度", "15000人", "5000人"]),
        ("5 m wide, 5 mwide", ["5m"]),
        ("年に三回、3回", ["3回"] * 2),
        ("第3章の表2、第三回、数十年、何百人、三分の一、3分の1", []),
        ("一度だけ十分に点検し、一日中、一部の人", []),
        ("3トンネル、三日月湖、3基準、2回転、四万十川、十日町市", []),
        ("2,3日、1.2.3m、勾配1/100", []),
    ],
)
def test_numbers_with_units(text: str, keys: list[str]) -> None:
    assert [quantity.key for quantity in quantities(text)] == keys


def test_a_quantity_is_told_as_it_is_written() -> None:
    assert [each.written for each in quantities("高さ１，５００ メートル、三〜五年、毎秒３㎥")] == [
        *("1,500メートル", "三年", "五年", "毎秒3m3")
    ]
    assert quantities("1,500m")[0].value == Decimal(1500)


def test_the_ends_of_a_text() -> None:
    found = [leading("5㎡の"), leading("3〜5m"), trailing("高さは3〜5 m"), trailing("5mの高さ"), leading("高さ5m")]
    assert [each and each.key for each in found] == ["5m2", "3m", "5m", None, None]
