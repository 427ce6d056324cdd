import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsm_queue.data.examples import Example, Turn
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


def test_a_text_that_holds_the_other_whole_is_found_at_the_threshold() -> None:
    assert nearest(["abcdef"], ["abcde"], 0.8) == {0: (0, 0.8)}


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


def talk(name: str, *said: tuple[str, str]) -> list[Example]:
    """A conversation's examples."""
    turns = [Turn(question=question, answer=answer) for question, answer in said]
    return [
        Example(id=f"{name}.{i}", question=turn.question, answer=turn.answer, history=turns[:i], conversation=name)
        for i, turn in enumerate(turns)
    ]


def test_a_conversation_that_resembles_a_held_out_one_is_dropped_whole() -> None:
    train = [*talk("leak", ("水制の種類", "三つ"), ("堤防は何を防ぎますか", "氾濫")), *talk("kept", ("護岸とは", "壁"))]
    held_out = talk("t", ("水制の種類", "三つ"), ("堤防は何を防ぎますか", "洪水"))[1:]
    kept, drops = drop_leaks(train, {"test": held_out}, [], 0.8)
    assert [each.id for each in kept] == ["kept.0"]
    assert [(each.id, each.reason) for each in drops] == [("leak.0", "same question"), ("leak.1", "same question")]


def test_the_other_turns_of_a_conversation_that_leaks_go_too() -> None:
    answer = "出水期の前に堤防の法面と天端を歩いて点検します。"
    train = [*talk("leak", ("水制の種類", "三つ"), ("点検は?", answer)), example("kept", "水制とは")]
    kept, drops = drop_leaks(train, {"test": [example("t", "いつ見るか", answer, facts=())]}, [], 0.8)
    assert [each.id for each in kept] == ["kept"]
    assert {(each.id, each.reason) for each in drops} == {
        *(("leak.0", "near-duplicate answer"), ("leak.1", "near-duplicate answer"))
    }


def test_a_follow_up_alone_resembles_nothing() -> None:
    train = talk("a", ("堤防の役割を述べよ", "氾濫"), ("もっと詳しく教えてください", "水"))
    held_out = talk("t", ("魚道が要る理由は何か", "魚"), ("もっと詳しく教えてください", "堰"))
    assert drop_leaks(train, {"test": held_out}, [], 0.8)[0] == train


@pytest.mark.parametrize("own", [True, False])
def test_what_was_said_before_a_question_counts_on_both_sides(own: bool) -> None:
    long = talk("a", ("堤防の役割を述べよ", "氾濫"), ("では魚道が要る理由を別に答えよ", "魚"))[1:]
    short = [example("s", "堤防の役割を述べよ", facts=())]
    train, held_out = (long, short) if own else (short, long)
    assert drop_leaks(train, {"test": held_out}, [], 0.8)[1][0].reason == "same question"


def test_a_pair_repeats_another_only_after_the_same_history() -> None:
    pairs = [*talk("a", ("堤防", "土"), ("それで?", "水")), *talk("b", ("堤防", "土"), ("それで?", "水"))]
    other = talk("c", ("護岸", "石"), ("それで?", "水"))
    named = [other[1].model_copy(update={"id": "d", "system": "短く"})]
    kept, drops = drop_unusable([*pairs, *other, *named], "source")
    assert [each.id for each in kept] == ["a.0", "a.1", "c.0", "c.1", "d"]
    assert [(each.id, each.against) for each in drops] == [("b.0", "a.0"), ("b.1", "a.1")]


def test_a_conversation_is_no_witness_for_its_own_numbers() -> None:
    one, two = talk("a", ("高さは15m?", "はい。"), ("幅は?", "15mか20mです。"))
    stated = witnesses([("a", "幅は? 15mか20mです。"), ("a", "高さは15m? はい。")])
    assert unsupported_numbers([one, two], stated) == {"a.1": ["20m"]}
    assert unsupported_numbers([two], witnesses([("b", "幅は二十メートル")])) == {}


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
