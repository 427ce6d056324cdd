"""What a judge's server, its answers, its key, its rubric and its spec may do wrong, and what follows."""

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jsm_queue.cli.judgefiles import judge_files
from jsm_queue.errors import DataError, JsmError, ModelError, SetupError, SpecError
from jsm_queue.kinds import JudgeInputs, JudgeParams
from jsm_queue.spec import JudgeSpec, parse_spec
from tests.unit.judges.servers import Scripted, content, endless, hang_up, scored, scripted, status
from tests.unit.judges.works import EXAMPLES, judge_work
from workers.judges import chat, openai
from workers.judges.judgement import Judge, Judgement
from workers.kinds import judge
from workers.runner import classify
from workers.work import Outcome

KEY = "sk-secret-0123456789"
KEY_ENV = "JSM_JUDGE_KEY"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules in less time."""
    monkeypatch.setattr(chat, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(chat, "LONGEST_WAIT_S", 0.002)
    monkeypatch.setattr(chat, "TRIES", 3)


def spec_of(server: Scripted, **changes: Any) -> JudgeSpec:
    return JudgeSpec.model_validate({"kind": "openai", "url": server.url, "model": "m"} | changes)


@contextmanager
def judge_at(server: Scripted, folder: Path, **changes: Any) -> Iterator[Judge]:
    with openai.open_judge(judge_work(folder, spec_of(server, **changes))) as opened:
        yield opened


def one(server: Scripted, folder: Path) -> Judgement:
    with judge_at(server, folder) as ask:
        return ask(EXAMPLES[0], "an answer")


def whole(server: Scripted, folder: Path, **changes: Any) -> Outcome:
    return judge.run(judge_work(folder, spec_of(server, **changes)))


# ---- what the server says ----


@pytest.mark.parametrize(
    "first",
    [
        status(429, "slow down"),
        status(429, "slow down", Retry_After="1"),
        status(429, "slow down", Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
        status(500, "oops"),
        status(502, "<html>bad gateway</html>"),
        hang_up,
    ],
    ids=["429", "retry-after", "retry-date", "500", "502", "hang-up"],
)
def test_what_may_pass_is_tried_again(first: Any, tmp_path: Path) -> None:
    with scripted(first, scored(2)) as server:
        assert one(server, tmp_path) == Judgement(2, "because")
        assert len(server.asked) == 2


def test_a_server_that_is_too_slow_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(chat, "ONE_TRY_S", 0.2)

    def slow(handler: Any) -> None:
        handler.rfile.read(1)  # until the client gives up
        handler.close_connection = True

    with scripted(slow, scored(1)) as server:
        assert one(server, tmp_path).score == 1


@pytest.mark.parametrize(
    ("says", "problem", "output"),
    [
        (status(200, "<html>hello</html>"), "unparsable", "<html>hello</html>"),
        (status(200, '{"error": "quota"}'), "unparsable", '{"error": "quota"}'),
        (status(200, '{"choices": []}'), "unparsable", '{"choices": []}'),
        (status(200, '{"choices": 7}'), "unparsable", '{"choices": 7}'),
        (content("I think it deserves a 3."), "unparsable", "I think it deserves a 3."),
        (content('{"reason": "great", "score": 7}'), "unparsable", '{"reason": "great", "score": 7}'),
        (content('{"rating": 3}'), "unparsable", '{"rating": 3}'),
        (content(None), "unparsable", ""),
        (content(None, refusal="I can't help with that"), "refused", "I can't help with that"),
        (content("", finish="content_filter"), "refused", ""),
        (content('{"reason": "it is', finish="length"), "truncated", '{"reason": "it is'),
        (status(413, "too large"), "error", "it answered 413: too large"),
        (endless, "error", "it said more than 1048576 bytes"),
    ],
)
def test_what_is_no_judgement_is_counted_and_shown(says: Any, problem: str, output: str, tmp_path: Path) -> None:
    with scripted(says) as server:
        found = one(server, tmp_path)
    assert (found.score, found.problem, found.output) == (None, problem, output)


def test_one_bad_answer_among_good_ones_is_one_record(tmp_path: Path) -> None:
    with scripted(scored(3), content("no idea"), scored(1)) as server:
        outcome = whole(server, tmp_path)
    assert [(r.item, r.name, r.value) for r in outcome.records] == [
        ("q0", "score", 3),
        ("q1", "unjudged", 1),
        ("q2", "score", 1),
    ]
    assert outcome.metrics == {"score": 2, "questions": 3, "unjudged": 1, "unparsable": 1}


def test_a_server_that_fails_once_for_good_costs_one_question(tmp_path: Path) -> None:
    with scripted(*[status(503, "busy")] * 3, scored(3)) as server:
        outcome = whole(server, tmp_path)
    assert outcome.metrics == {"score": 3, "questions": 3, "unjudged": 1, "error": 1}
    assert (outcome.records[0].meta or {})["output"] == "it answered 503: busy"


def test_a_server_that_is_away_ends_the_attempt_and_not_the_job(tmp_path: Path) -> None:
    with scripted(status(503, "busy")) as server, pytest.raises(SetupError, match="is away: it answered 503") as caught:
        whole(server, tmp_path)
    assert len(server.asked) == 9, "three questions, three tries each"
    assert classify(caught.value)[0] == "crashed", "another attempt may find it well"


def test_nobody_there_is_a_server_that_is_away(tmp_path: Path) -> None:
    with scripted(scored(3)) as server:
        pass
    with pytest.raises(SetupError, match="is away: ConnectError"):
        whole(server, tmp_path)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_nobody_there_keeps_no_slot_for_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, concurrency: int) -> None:
    monkeypatch.setattr(chat, "TRIES", 10_000)
    monkeypatch.setattr(chat, "QUESTION_S", 3.0)
    monkeypatch.setattr(chat, "AWAY_S", 0.3)
    with scripted(scored(3)) as server:
        pass
    began = time.monotonic()
    with pytest.raises(SetupError, match="is away: ConnectError") as caught:
        whole(server, tmp_path, concurrency=concurrency)
    assert 0.2 < time.monotonic() - began < 2.5, "the patience for all questions together"
    assert classify(caught.value)[0] == "crashed"


def test_the_patience_begins_anew_with_every_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with scripted(scored(3)) as server, chat.open_server(spec_of(server)) as asked:
        asked.away_since = time.monotonic() - 2 * chat.AWAY_S
        assert chat.ask(asked, [{"role": "user", "content": "?"}]).status == 200
        assert asked.away_since is None


@pytest.mark.parametrize(
    ("code", "message"),
    [(401, "refuses this worker"), (403, "refuses this worker"), (404, "no model m"), (307, "points to another")],
)
def test_a_server_that_will_answer_nobody_ends_the_attempt_at_once(code: int, message: str, tmp_path: Path) -> None:
    with scripted(status(code, "x", Location="/v1/elsewhere")) as server, pytest.raises(SetupError, match=message):
        whole(server, tmp_path)
    assert len(server.asked) == 1


def test_no_request_and_no_key_goes_to_another_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)
    with scripted(scored(3)) as other:
        for code in (301, 302, 307, 308):
            with scripted(status(code, "", Location=f"{other.url}/chat/completions")) as server:
                with pytest.raises(SetupError, match="points to another"):
                    whole(server, tmp_path, key_env=KEY_ENV)
                assert server.asked[0].headers["Authorization"] == f"Bearer {KEY}"
        assert other.asked == []


# ---- what the server knows ----


def formats(server: Scripted) -> list[str | None]:
    return [asked.body.get("response_format", {}).get("type") for asked in server.asked]


@pytest.mark.parametrize(
    "refusal",
    [
        status(400, '{"error": "unknown response_format json_schema"}'),
        status(422, "response_format: input should be text or json_object"),
        status(500, "validation error: response_format"),
        status(400, "bad request"),
    ],
)
def test_a_server_without_json_schema_is_asked_in_the_older_way_and_stays_so(refusal: Any, tmp_path: Path) -> None:
    with scripted(refusal, scored(3), scored(2), scored(1)) as server:
        outcome = whole(server, tmp_path)
        assert formats(server) == ["json_schema", "json_object", "json_object", "json_object"]
    assert outcome.metrics["score"] == 2
    assert server.asked[1].body["response_format"]["schema"]["required"] == ["reason", "score"]


def test_a_server_that_knows_none_of_it_is_asked_plainly(tmp_path: Path) -> None:
    refuse = [status(400, f"unsupported: {name}") for name in ("max_tokens", "temperature", "response_format")]
    with scripted(
        *refuse, refuse[-1], status(400, "unsupported: seed"), content('{"reason": "", "score": 1}')
    ) as server:
        assert one(server, tmp_path).score == 1
        assert set(server.asked[-1].body) == {"model", "messages"}


def test_a_question_that_is_refused_takes_nothing_from_the_next_ones(tmp_path: Path) -> None:
    too_long = status(400, "maximum context length")
    with scripted(scored(3), *[too_long] * 6, scored(2)) as server:
        outcome = whole(server, tmp_path)
        assert set(server.asked[-1].body) == set(server.asked[0].body), "the third is asked like the first"
        assert formats(server)[-1] == "json_schema"
    assert outcome.metrics == {"score": 2.5, "questions": 3, "unjudged": 1, "error": 1}


def test_the_request_is_greedy_and_holds_the_whole_case(tmp_path: Path) -> None:
    with scripted(scored(3)) as server:
        one(server, tmp_path)
    (asked,) = server.asked
    assert asked.path == "/v1/chat/completions"
    assert (asked.body["model"], asked.body["temperature"], asked.body["seed"]) == ("m", 0, 0)
    assert [message["role"] for message in asked.body["messages"]] == ["system", "user"]
    assert "an answer" in asked.body["messages"][1]["content"]
    assert "Authorization" not in asked.headers


def test_several_questions_at_a_time_keep_their_places(tmp_path: Path) -> None:
    """All three are at the server before it answers the first, and each gets its own score."""
    together = threading.Barrier(3, timeout=20)

    def by_question(handler: Any) -> None:
        together.wait()
        scored(EXAMPLES.index(next(e for e in EXAMPLES if e.question in handler.case)))(handler)

    with scripted(by_question) as server:
        outcome = whole(server, tmp_path, concurrency=4)
    assert [(record.item, record.value) for record in outcome.records] == [("q0", 0), ("q1", 1), ("q2", 2)]


# ---- the key ----


@pytest.mark.parametrize("value", [None, "", "   "])
def test_a_missing_key_is_named_before_anything_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str | None
) -> None:
    monkeypatch.delenv(KEY_ENV, raising=False)
    if value is not None:
        monkeypatch.setenv(KEY_ENV, value)
    with scripted(scored(3)) as server, pytest.raises(SetupError, match=f"variable {KEY_ENV} is not set") as caught:
        whole(server, tmp_path, key_env=KEY_ENV)
    assert server.asked == []
    assert f"Set {KEY_ENV}" in caught.value.fix


@pytest.mark.parametrize("key", [f"{KEY}\r\nX-Evil: 1", f"{KEY} x", f"{KEY}鍵"])
def test_a_key_that_is_none_is_not_repeated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str) -> None:
    monkeypatch.setenv(KEY_ENV, key)
    with scripted(scored(3)) as server, pytest.raises(SetupError, match="holds no key") as caught:
        whole(server, tmp_path, key_env=KEY_ENV)
    assert KEY not in str(caught.value)
    assert server.asked == []


def test_the_key_is_nowhere_but_in_the_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(KEY_ENV, KEY)
    says = [content(f"your key is {KEY}"), status(500, f"bad key {KEY}"), scored(3, f"by {KEY}")]
    with scripted(*says) as server:
        outcome = whole(server, tmp_path, key_env=KEY_ENV)
        assert {asked.headers["Authorization"] for asked in server.asked} == {f"Bearer {KEY}"}
    assert "[key]" in json.dumps([record.meta for record in outcome.records])
    params = judge_work(tmp_path, spec_of(server, key_env=KEY_ENV)).params
    for told in (outcome.records, outcome.metrics, params.model_dump(), caplog.text):
        assert KEY not in str(told)


# ---- the spec ----


def judge_of(**keys: Any) -> JudgeSpec:
    study = {"name": "s", "data": {"source": "d.csv"}, "bases": [{"name": "a", "source": "./a"}], "judge": keys}
    return parse_spec(study | {"stages": {"bases": {"n": 5}}}).judge


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "llm"}, "judge.kind"),
        ({"kind": "gguf"}, "needs `source`"),
        ({"kind": "openai", "url": "http://h/v1"}, "needs `model`"),
        ({"kind": "openai", "model": "m"}, "needs `url`"),
        ({"kind": "key_facts", "rubric": "en"}, "`rubric` means nothing"),
        ({"kind": "gguf", "source": "a.gguf", "url": "http://h/v1"}, "`url` means nothing"),
        ({"kind": "openai", "url": "http://h/v1", "model": "m", "source": "a.gguf"}, "`source` means nothing"),
        ({"kind": "openai", "url": "http://h/v1", "model": "m", "concurrency": 5}, "judge.concurrency"),
        ({"kind": "openai", "url": "file:///etc/passwd", "model": "m"}, "expected an address"),
        ({"kind": "openai", "url": "ftp://h/v1", "model": "m"}, "expected an address"),
        ({"kind": "openai", "url": "http://", "model": "m"}, "expected an address"),
        ({"kind": "openai", "url": "http://h:99999/v1", "model": "m"}, "expected an address"),
        ({"kind": "openai", "url": "http://[::1/v1", "model": "m"}, "expected an address"),
        ({"kind": "openai", "url": "http://h/v1\r\nHost: x", "model": "m"}, "expected an address"),
        ({"kind": "openai", "url": f"http://me:{KEY}@h/v1", "model": "m"}, "no user, password"),
        ({"kind": "openai", "url": f"http://h/v1?key={KEY}", "model": "m"}, "no user, password"),
        ({"kind": "openai", "url": "http://h/v1/chat/completions", "model": "m"}, "leave out"),
        ({"kind": "openai", "url": "http://h/v1", "model": "m", "key_env": KEY}, "judge.key_env"),
        ({"kind": "openai", "url": "http://h/v1", "model": "m", "key_env": "HF_TOKEN"}, "judge.key_env"),
        ({"kind": "openai", "url": "http://h/v1", "model": "m", "key_env": KEY_ENV}, "use https://"),
    ],
)
def test_a_spec_that_cannot_be_is_refused_in_one_line_without_secrets(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        judge_of(**keys)
    assert message in caught.value.message and KEY not in str(caught.value)
    assert "\n" not in caught.value.message


def test_a_stored_spec_is_read_again() -> None:
    for keys in (
        {},
        {"kind": "gguf", "source": "a.gguf", "rubric": "en"},
        {"kind": "openai", "url": "https://h/v1/", "model": "m", "key_env": KEY_ENV, "concurrency": 4},
    ):
        spec = judge_of(**keys)
        assert judge_of(**spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize("host", ["\u2603.net", "xn--"])
def test_an_address_that_no_request_could_go_to_is_an_error_of_the_spec(tmp_path: Path, host: str) -> None:
    work = judge_work(tmp_path, JudgeSpec(kind="openai", url=f"http://{host}/v1", model="m"))
    with pytest.raises(SpecError, match="not an address"):
        judge.run(work)


# ---- the rubric and the model's file ----


def submitted(folder: Path, judge: dict[str, Any], ask_hub: bool = True) -> JudgeInputs | None:
    """What the judge of a spec in that folder resolves to."""
    (folder / "d.csv").write_text("question,answer,key_facts\nq,a,a\n", encoding="utf-8")

    def missing(error: JsmError) -> None:
        if ask_hub:
            raise error

    return judge_files(judge_of(**judge), folder, {}, missing, ask_hub)


REMOTE = {"kind": "openai", "url": "http://h/v1", "model": "m"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "is not a file"),
        (b"", "is empty"),
        (b" \n\t ", "is empty"),
        (b"\xff\xfe\x00score", "not UTF-8"),
        (b"score\x00 3", "control characters"),
        (b"score \x1b[31m3", "control characters"),
        ("採点".encode() * 6000, "longer than 10000 characters"),
        (b"a" * 50_000_000, "longer than 10000 characters"),
    ],
    ids=["missing", "empty", "blank", "utf-16", "nul", "escape", "long", "huge"],
)
def test_a_rubric_that_is_none_is_refused_before_anything_runs(
    tmp_path: Path, data: bytes | None, message: str
) -> None:
    if data is not None:
        (tmp_path / "rubric.txt").write_bytes(data)
    with pytest.raises(DataError) as caught:
        submitted(tmp_path, REMOTE | {"rubric": "rubric.txt"})
    assert message in caught.value.message and caught.value.fix


def test_a_folder_and_a_device_are_no_rubric(tmp_path: Path) -> None:
    for name in (".", os.devnull):
        with pytest.raises(DataError, match="is not a file"):
            submitted(tmp_path, REMOTE | {"rubric": name})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none.gguf", "does not exist"),
        ("package:no_such_package/judge.gguf", "does not exist"),
        ("package:", "does not exist"),
        ("d.csv", "not a GGUF"),
        ("hub:org/name", "names no GGUF"),
        ("hub:../../etc/passwd", "names no GGUF"),
    ],
)
def test_a_judge_s_file_that_is_none_is_refused(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        submitted(tmp_path, {"kind": "gguf", "source": source})
    assert message in caught.value.message and caught.value.fix


def test_a_dry_run_goes_on_without_what_is_missing_and_without_the_hub(tmp_path: Path) -> None:
    for source in ("none.gguf", "hub:org/name/judge.gguf"):
        found = submitted(tmp_path, {"kind": "gguf", "source": source, "rubric": "none.txt"}, ask_hub=False)
        assert found and found.file and found.file.suffix == ".gguf"


@pytest.mark.parametrize(("error", "expected"), [(OSError("no route"), SetupError), (ValueError("proxy"), SetupError)])
def test_a_hub_that_is_away_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, expected: type[JsmError]
) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(expected, match="the hub does not answer"):
        submitted(tmp_path, {"kind": "gguf", "source": "hub:org/name/judge-Q4_K_M.gguf@v1"})


def test_params_of_a_rubric_bomb_stay_small(tmp_path: Path) -> None:
    """A rubric is in every judge job's params, so its length is bounded where it enters."""
    (tmp_path / "rubric.txt").write_text("あ" * 10_000, encoding="utf-8")
    found = submitted(tmp_path, REMOTE | {"rubric": "rubric.txt"})
    assert found and len(found.rubric) == 10_000
    assert len(JudgeParams(judge=JudgeSpec(), split="bench", rubric=found.rubric).model_dump_json()) < 31_000
