"""The units of Japanese technical text: how each is spelled, and what may not follow it."""

import re

_LATIN = (
    "km|cm|mm|nm|μm|m|kg|mg|μg|g|t|kn|mn|kpa|mpa|gpa|hpa|pa|kl|ml|dl|l|ha|kwh|mwh|gwh|kw|mw|gw|w|kv|mv|v"
    "|khz|mhz|ghz|hz|ppm|ppb|kcal|cal|gal|cc|db|°c|%|‰"
)
_PER = r"mm2|cm2|m2|m3|cm3|km2|km|cm|mm|m|ha|kl|ml|dl|l|kg|g|t|sec|s2|s|min|hour|h|day|d|year"
_PER_JA = "秒|分|時間|時|日|年|人"
_PER_CANONICAL = {
    **{"sec": "s", "秒": "s", "分": "min", "hour": "h", "時間": "h", "時": "h"},
    **{"day": "日", "d": "日", "year": "年"},
}
PER_PREFIX = {"毎秒": "s", "秒速": "s", "毎分": "min", "毎時": "h", "時速": "h"}
""" "毎秒300m3" is 300 m3/s"""

_KATAKANA = {
    **{
        "キロメートル": "km",
        "センチメートル": "cm",
        "センチ": "cm",
        "ミリメートル": "mm",
        "ミリ": "mm",
        "メートル": "m",
    },
    **{"平方キロメートル": "km2", "平方キロ": "km2", "平方メートル": "m2", "平方センチメートル": "cm2"},
    **{"立方メートル": "m3", "立方センチメートル": "cm3", "ヘクタール": "ha"},
    **{"キログラム": "kg", "ミリグラム": "mg", "グラム": "g", "トン": "t", "キロ": "キロ"},
    **{"ミリリットル": "ml", "リットル": "l", "キロワット": "kw", "ワット": "w", "ボルト": "v", "ヘルツ": "hz"},
    **{"メガパスカル": "mpa", "ヘクトパスカル": "hpa", "パーセント": "%", "パーミル": "‰"},
}
_KANJI = {
    **{"平米": "m2", "立米": "m3", "円": "円", "年度": "年度", "年間": "年", "年": "年", "月": "月"},
    **{f"{sign}月{rest}": "か月" for sign in "かヶヵカケ箇" for rest in ("間", "")},
    **{"週間": "週", "週": "週", "日間": "日", "日": "日", "時間": "時間", "時": "時", "分間": "分", "分": "分"},
    **{"秒間": "秒", "秒": "秒", "度": "度", "割": "割", "倍": "倍", "回": "回", "人": "人", "名": "人", "件": "件"},
    **{f"{sign}所": "箇所" for sign in "かヶヵカケ箇"},
    **{each: each for each in ("世帯", "本", "基", "戸", "棟", "隻", "台", "枚", "個", "歳", "点", "層", "段", "階")},
}
_NOT_BEFORE = {
    **{"年": "代生輪齢", "月": "光面", "日": "月市町村本", "時": "代", "分": "の野類割岐布", "度": "数", "割": "合当"},
    **{"倍": "率数", "回": "路収転", "人": "口", "名": "称前古", "件": "数", "円": "形弧滑錐筒周", "本": "部体文章"},
    **{"基": "準本礎", "台": "風帳", "個": "別人", "点": "検", "段": "階", "階": "層級", "戸": "建"},
}
"""Kanji that make another word of the counter: 3分の1 states no minutes, 3基準 no piers."""

COUNTERS = frozenset({*"年月日時分秒度割倍回人件本基戸棟隻台枚個点層段階", "箇所", "世帯"})
"""Units that a single kanji joins to words which state no number (一度, 一日中, 一部の人)."""
ONLY_COUNTED = frozenset({*"時分度月点層段階台枚個戸", "世帯"})
"""Of these no single kanji numeral counts at all (三月, 十分, 二階)."""


def _longest_first(words: dict[str, str]) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


def _kanji_pattern() -> str:
    """Each kanji unit that ends in a counter with the characters that may not follow it."""
    words = sorted(_KANJI, key=len, reverse=True)
    return "|".join(f"{word}(?![{_NOT_BEFORE[word]}])" if word in _NOT_BEFORE else word for word in words)


UNIT = (
    rf"(?:(?P<latin>{_LATIN})(?P<power>\^?[23](?![0-9.]))?(?:/(?P<per>(?:{_PER})(?![a-z0-9])|{_PER_JA}))?(?![a-z]|/[a-z])"
    rf"|(?P<katakana>{_longest_first(_KATAKANA)})(?:(?:/|毎)(?P<per_ja>{_PER_JA}))?(?![ァ-ヺー])"
    rf"|(?P<kanji>{_kanji_pattern()}))"
)
"""A regular expression of a unit in text of the form NFKC, case folded."""


def canonical(match: re.Match[str]) -> str:
    """The one spelling of the unit that UNIT found: "メートル" and "m" are "m", "年間" is "年"."""
    if match["latin"]:
        unit = match["latin"] + (match["power"] or "").removeprefix("^")
    else:
        unit = _KATAKANA[match["katakana"]] if match["katakana"] else _KANJI[match["kanji"]]
    per = match["per"] or match["per_ja"]
    return f"{unit}/{_PER_CANONICAL.get(per, per)}" if per else unit
