from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsm_queue.data.keyfacts import found_key_facts, key_fact_score, key_fact_spans
from jsm_queue.errors import DataError

WORDS = st.lists(st.text(alphabet="堤防氾濫土石流ＡａﾊﾟＢ ", min_size=1, max_size=4), min_size=1, max_size=3)


def test_score_is_three_times_the_share_found() -> None:
    facts = [["土石流"], ["透過型", "スリット"], ["渓流"]]
    assert key_fact_score("スリットで土石流を止める", facts) == pytest.approx(2.0)
    assert found_key_facts("スリットで土石流を止める", facts) == [True, True, False]
    assert key_fact_score("", facts) == 0.0


def test_width_case_and_spaces_do_not_matter() -> None:
    assert key_fact_score("ａｄｃｐ と ﾋﾟｴｿﾞﾒｰﾀ", [["ADCP"], ["ピエゾメータ"]]) == 3.0


@pytest.mark.parametrize(
    ("spelling", "answer", "found"),
    [
        ("3回", "年に3回です", True),
        ("3回", "年に13回です", False),
        ("3回", "年に１３回です", False),
        ("3回", "年に１ ３回、冬は3 回です", True),
        ("5m", "高さ15m", False),
        ("5m", "高さ0.5m", False),
        ("0.5m", "高さ10.5m", False),
        ("0.5m", "高さ0．5ｍ", True),
        ("1,500m", "長さ1500mです", True),
        ("1500m", "長さ１，５００ｍです", True),
        ("500m", "長さ1,500m", False),
        ("1,234,567", "1234567人", True),
        ("第3", "第30条", False),
        ("第3", "第3.5条", False),
        ("15", "答えは15.", True),
        ("15", "14,15,16", False),
        ("2020", "2020, 2021", False),
        ("2020", "2020年と2021年", True),
    ],
)
def test_a_number_is_found_only_whole_however_it_is_written(spelling: str, answer: str, found: bool) -> None:
    assert found_key_facts(answer, [[spelling]]) == [found]
    assert bool(key_fact_spans(answer, [[spelling]])) is found


@pytest.mark.parametrize(
    ("spelling", "answer", "found"),
    [
        ("5m", "5mm", False),
        ("5m", "5mmと5mです", True),
        ("5m", "5m/s", False),
        ("5m", "5㎡", False),
        ("5m", "5 m high", True),
        ("5m", "５ｍ以上", True),
        ("高さ5m", "高さ5mm", False),
        ("300m3", "300m³/s", False),
        ("300m3/s", "３００㎥/s", True),
        ("5%", "5%以上", True),
        ("3トン", "3トンネル", False),
        ("3トン", "約3トンです", True),
        ("5センチ", "5センチメートル", True),
        ("5キロ", "5キログラム", False),
        ("3日", "3日間", True),
        ("10年", "10年度", False),
        ("5分", "5分の1", False),
        ("三回", "十三回", False),
        ("三回", "年に三回", True),
        ("1,500m", "1500mm", False),
        ("1500m", "１，５００ ｍ", True),
        ("ADC", "ADCP", True),
        ("一部", "一部分", True),
    ],
)
def test_a_unit_is_found_only_where_it_ends(spelling: str, answer: str, found: bool) -> None:
    assert found_key_facts(answer, [[spelling]]) == [found]
    assert bool(key_fact_spans(answer, [[spelling]])) is found


def test_spans_hold_the_separators_that_were_written() -> None:
    answer = "長さは１，５００ｍです"
    assert [answer[a:b] for a, b in key_fact_spans(answer, [["1500m"]])] == ["１，５００ｍ"]


def test_negation_is_not_understood() -> None:
    assert key_fact_score("堤防ではありません", [["堤防"]]) == 3.0


def test_a_blank_spelling_is_never_found() -> None:
    assert found_key_facts("堤防", [[" "], []]) == [False, False]


def test_without_key_facts_there_is_no_score() -> None:
    with pytest.raises(DataError, match="without key facts"):
        key_fact_score("堤防", [])


def test_spans_are_of_the_first_places_in_the_answer_as_written() -> None:
    answer = "Ａ Ｄ Ｃ Ｐと護岸、また護岸。"
    assert [answer[a:b] for a, b in key_fact_spans(answer, [["護岸"], ["adcp"]])] == ["Ａ Ｄ Ｃ Ｐ", "護岸"]


def test_overlapping_spans_merge_and_missing_facts_have_none() -> None:
    assert key_fact_spans("内水氾濫です", [["内水氾"], ["氾濫", "水害"], ["高潮"]]) == [(0, 4)]


def test_the_longest_spelling_at_a_place_counts() -> None:
    assert key_fact_spans("ステンレス鋼です", [["ステンレス", "ステンレス鋼"]]) == [(0, 6)]


@given(WORDS, st.text(alphabet="堤防氾濫土石流ＡａﾊﾟＢ 。", max_size=20))
def test_spans_cover_exactly_the_facts_that_are_found(words: list[str], answer: str) -> None:
    facts = [[word] for word in words]
    spans = key_fact_spans(answer, facts)
    assert bool(spans) == any(found_key_facts(answer, facts))
    assert all(a < b for a, b in spans) and all(x[1] <= y[0] for x, y in pairwise(spans))
    for start, end in spans:
        assert any(found_key_facts(answer[start:end], facts))
