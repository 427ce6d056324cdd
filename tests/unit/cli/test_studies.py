"""What `jsm submit`, `status` and `jobs` print, against an api that always answers the same."""

import os
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from jsm_queue.cli import client, console, studies, watch
from jsm_queue.errors import RequestError, SetupError

STATES = ("waiting", "ready", "active", "done", "failed", "quarantined", "skipped")
ADVICE = "to decide anew give the study another name in "


def job(state: str, **more: Any) -> dict[str, Any]:
    plain = {"stage": "scale", "label": f"train {state}", "position": 0, "total": 0, "seconds": None}
    plain |= {"error": None, "paused": None, "wanted_by": None}
    return plain | {"id": state * 4, "state": state, "reused": False, "metrics": {}, "ended": None} | more


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The api's one study, to be changed by a test."""
    study: dict[str, Any] = {"id": "a" * 64, "name": "small", "state": "ended", "stage": "ended", "created_at": 0.0}
    study |= {"jobs": dict.fromkeys(STATES, 0) | {"failed": 2, "total": 2, "reused": 0}, "resumed": True}
    study |= {"spec": {"stages": {}}, "verdicts": [], "waiting_for": None, "listed": [job("failed", error="no disk")]}

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/jobs"):
            return httpx.Response(200, json={"jobs": study["listed"], "next": None})
        return httpx.Response(200, json={} if request.url.path.endswith("/comparisons") else study)

    transport = httpx.MockTransport(answer)
    monkeypatch.setattr(client, "connect", lambda: httpx.Client(base_url="http://api", transport=transport))
    return study


def test_status_says_how_to_try_again_what_was_lost(api: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    studies.status("small", as_json=False)
    assert f"{ADVICE}its file" in capsys.readouterr().out


@pytest.mark.parametrize("follow", [False, True])
def test_submit_says_it_with_the_files_name(
    api: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], follow: bool
) -> None:
    monkeypatch.setattr(studies, "send", lambda *_, **__: api)
    file = Path("my/study.yaml")
    studies.submit(file, follow, as_json=False)
    assert capsys.readouterr().out.count(f"{ADVICE}{file}") == 1


def test_a_running_study_gets_no_such_advice(api: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    api["state"] = "running"
    studies.status("small", as_json=False)
    assert ADVICE not in capsys.readouterr().out


def test_the_jobs_table_says_how_the_last_try_ended(api: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    api["listed"] = [job("ready", ended={"reason": "crashed", "message": "killed by [signal] 9\nlog"})]
    studies.jobs("small", None, as_json=False)
    heading, row = capsys.readouterr().out.splitlines()
    assert "last end" in heading
    assert "crashed: killed by [signal] 9" in row


def test_a_job_that_is_done_shows_no_way_that_is_left(api: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    api["listed"] = [job("done", position=1, total=4), job("active", position=3, total=7)]
    studies.jobs("small", None, as_json=False)
    shown = capsys.readouterr().out
    assert "1/4" not in shown and "3/7" in shown


def test_skipped_jobs_are_not_called_failed(api: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    api["jobs"] |= {"quarantined": 1, "skipped": 5, "total": 8}
    studies.show_studies([api])
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split()[-3:] == ["failed", "skipped", "reused"] and row.split()[-3:] == ["3", "5", "0"]


def test_a_first_submit_does_not_count_jobs_that_are_not_planned_yet(
    api: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api |= {"state": "running", "resumed": False, "jobs": dict.fromkeys(STATES, 0) | {"total": 0, "reused": 0}}
    monkeypatch.setattr(studies, "send", lambda *_, **__: api)
    studies.submit(Path("study.yaml"), follow=False, as_json=False)
    said = capsys.readouterr().out
    assert "started" in said and "0 of 0" not in said


@pytest.mark.parametrize(
    ("output", "markdown", "form", "name"),
    [
        (None, False, "html", "small-aaaaaaaa.html"),
        (None, True, "md", "small-aaaaaaaa.md"),
        ("x.md", False, "md", "x.md"),
        ("x.html", False, "html", "x.html"),
    ],
)
def test_a_report_has_the_form_that_its_name_or_the_option_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, output: str | None, markdown: bool, form: str, name: str
) -> None:
    monkeypatch.setattr(studies, "home", lambda: tmp_path)
    echo = httpx.MockTransport(lambda request: httpx.Response(200, text=request.url.params["format"]))
    with httpx.Client(base_url="http://api", transport=echo) as http:
        study = {"id": "a" * 64, "name": "small"}
        path = studies.write_report(http, study, tmp_path / output if output else None, markdown)
    assert (path.name, path.read_text(encoding="utf-8")) == (name, form)


def write(path: Path) -> None:
    echo = httpx.MockTransport(lambda request: httpx.Response(200, text="the report"))
    with httpx.Client(base_url="http://api", transport=echo) as http:
        studies.write_report(http, {"id": "a" * 64, "name": "small"}, path)


@pytest.mark.skipif(os.name != "posix", reason="pipes with a name are POSIX's")
def test_a_report_goes_through_a_pipe_and_leaves_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    write(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
    reader.join(5)
    assert read == ["the report"]


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
@pytest.mark.parametrize("there", [True, False])
def test_a_report_through_a_link_is_written_where_it_leads(tmp_path: Path, there: bool) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    if there:
        (tmp_path / "file").write_text("old")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "the report"


def test_a_report_makes_no_folders(api: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no folder"):
        studies.report("small", tmp_path / "mistyped" / "x.html", markdown=False, as_json=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("width", [40, 60, 200])
def test_the_jobs_ids_stay_whole_beside_long_messages(
    api: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setattr(console.out, "_width", width)
    ended = {"reason": "crashed", "message": "why " * 100}
    api["listed"] = [job("failed", id="0123456789abcdef", error="no disk " * 100, ended=ended), job("done")]
    studies.jobs("small", None, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["job", "0123456789ab", "donedonedone"]
    assert lines[1].split()[1] == "failed" and "train failed" in lines[1]


@pytest.mark.parametrize("state", ["paused", "cancelled"])
def test_what_is_ready_in_a_study_that_stands_still_says_so(
    api: dict[str, Any], capsys: pytest.CaptureFixture[str], state: str
) -> None:
    api |= {"state": state, "listed": [job("ready"), job("done"), job("active")]}
    studies.jobs("small", None, as_json=False)
    told = [f"the study is {state}" in line for line in capsys.readouterr().out.splitlines()]
    assert told == [False, True, False, False]
    api["listed"] = [job("ready", wanted_by="other")]
    studies.jobs("small", None, as_json=False)
    assert "study other wants it" in capsys.readouterr().out


def test_no_match_is_not_no_jobs(api: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    api["listed"] = []
    studies.jobs("small", "quarantined", as_json=False)
    assert capsys.readouterr().out == "no quarantined jobs\n"
    with pytest.raises(RequestError, match="foo"):
        studies.jobs("small", "foo", as_json=False)


@pytest.mark.parametrize(("state", "failed", "status"), [("ended", 0, 0), ("ended", 2, 1), ("cancelled", 0, 1)])
def test_watching_ends_with_the_study(
    api: dict[str, Any], capsys: pytest.CaptureFixture[str], state: str, failed: int, status: int
) -> None:
    api |= {"state": state, "listed": []}
    api["jobs"]["failed"] = failed
    assert studies.follow("small") == status
    said = capsys.readouterr().out
    assert f"study {'a' * 12}   {state}" in said
    assert (f"{ADVICE}its file" in said) == bool(failed)


def test_ctrl_c_ends_the_watching_alone(api: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    api["state"] = "running"
    monkeypatch.setattr(watch.time, "sleep", interrupted)
    assert studies.follow("small") == 130
