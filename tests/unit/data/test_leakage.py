import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsm_queue.data.examples import Example
from jsm_queue.data.leakage import drop_leaks, drop_unusable
from jsm_queue.data.oddities import oddities, unsupported_numbers, witnesses
from jsm_queue.data.similarity import bigrams, jaccard, masked, nearest

TEXTS = st.lists(st.text(alphabet="堤防は何を", max_size=12), max_size=6)


def example(name: str, question: str, answer: str = "氾濫です。", facts: tuple[str, ...] = ("x r y",)) -> Example:
    return Example(id=name, question=question, answer=answer, facts=list(facts), key_facts=[["氾濫"]])


@given(TEXTS, TEXTS, st.floats(0.05, 1))
def test_nearest_equals_comparing_all_pairs(texts: list[str], others: list[str], threshold: float) -> None:
    expected = {}
    for index, text in enumerate(texts):
        scores = [jaccard(bigrams(text), bigrams(other)) for other in others]
        if scores and max(scores) >= threshold:
            expected[index] = (scores.index(max(scores)), max(scores))
    assert nearest(texts, others, threshold) == expected


def test_the_longest_name_is_masked_first() -> None:
    one, two = masked(["砂防堰堤と砂防の違い", "高潮とＮ値の違い"], ["砂防", "砂防堰堤", "高潮", "N値"])
    assert one == two


def test_the_same_wording_about_another_entity_is_dropped_from_training() -> None:
    train = [example("same", "護岸は何から町を守りますか。"), example("other", "護岸が防ぐ現象を述べよ。")]
    kept, drops = drop_leaks(train, {"test": [example("t", "堤防は何から町を守りますか。")]}, ["護岸", "堤防"], 0.8)
    assert [each.id for each in kept] == ["other"]
    assert (drops[0].id, drops[0].reason, drops[0].split, drops[0].against) == (
        *("same", "near-duplicate question", "test", "t"),
    )


def test_the_threshold_decides() -> None:
    train, test = [example("a", "堤防は何を防ぎますか")], {"test": [example("t", "堤防は何を防ぐのですか")]}
    similarity = jaccard(bigrams(train[0].question), bigrams(test["test"][0].question))
    assert drop_leaks(train, test, [], similarity)[0] == []
    assert drop_leaks(train, test, [], similarity + 0.01)[0] == train


def test_the_same_question_is_found_whatever_its_width() -> None:
    train = [example("a", "ＡＤＣＰは 何か？")]
    _, drops = drop_leaks(train, {"bench": [example("b", "ADCPは何か?")]}, [], 1.0)
    assert [(each.reason, each.split) for each in drops] == [("same question", "bench")]


def test_answers_count_only_where_facts_are_unknown() -> None:
    answer = "出水期の前に堤防の法面と天端を歩いて点検します。"
    for facts, kept_ids in (((), []), (("x r y",), ["a"])):
        train = [example("a", "堤防はいつ見ますか", answer, facts)]
        held_out = {"test": [example("t", "点検の時期と方法", answer, facts)]}
        assert [each.id for each in drop_leaks(train, held_out, [], 0.8)[0]] == kept_ids


def test_short_answers_may_coincide() -> None:
    train = [example("a", "堤防は土ですか", "はい。", ())]
    assert drop_leaks(train, {"test": [example("t", "護岸は必要か", "はい。", ())]}, [], 0.8)[0] == train


def test_empty_and_repeated_pairs_are_dropped() -> None:
    pairs = [
        example("a", "問い", "答え"),
        example("b", "問い ", "答え"),
        example("c", "問い", " "),
        example("d", "問い", "別"),
    ]
    kept, drops = drop_unusable(pairs, "train")
    assert [each.id for each in kept] == ["a", "d"]
    assert [(each.id, each.reason) for each in drops] == [
        ("b", "repeated pair"),
        ("c", "empty question or answer"),
    ]


def test_oddities_are_listed() -> None:
    pairs = [
        example("long", "一", "高潮です。" + "長" * 30),
        example("loop", "二", "氾濫です氾濫です氾濫です"),
        example("two-1", "三", "氾濫"),
        example("two-2", "三", "高潮"),
        Example(id="bare", question="四", answer="氾濫"),
    ]
    assert oddities(pairs, 20) == {
        "self_repeating_answer": ["long", "loop"],
        "over_long_answer": ["long"],
        "question_with_several_answers": ["two-1", "two-2"],
        "without_key_facts": ["bare"],
        "key_fact_not_in_answer": ["long", "two-2"],
    }


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("高さは?", "15m以上です。", {}),
        ("高さは?", "20m以上です。", {"e": ["20m"]}),
        ("20 mの堤防とは?", "２０ｍの堤防です。", {}),
        ("いつ?", "第2編にある。", {}),
    ],
)
def test_numbers_without_support_are_listed(question: str, answer: str, expected: dict[str, list[str]]) -> None:
    source = witnesses([("graph", "ダムの高さは15m以上"), ("e", answer)])
    assert unsupported_numbers([example("e", question, answer)], source) == expected
