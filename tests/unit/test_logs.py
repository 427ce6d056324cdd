"""The log's two forms, what a line is about, and that no secret is in it."""

import json
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jsm_queue import logs

JOB, ATTEMPT = "3fa91c20b7d4" + "0" * 52, "5c0d1e2f3a4b" + "0" * 20


@pytest.fixture(autouse=True)
def kept_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def record(message: str, *arguments: object, failed: bool = False) -> logging.LogRecord:
    error = None
    if failed:
        try:
            raise KeyError("x")
        except KeyError:
            error = sys.exc_info()
    return logging.LogRecord("workers.attempts", logging.INFO, __file__, 1, message, arguments, error)


def test_a_line_for_people_has_short_ids() -> None:
    with logs.about(job=JOB, attempt=ATTEMPT, study="river"):
        line = logs.TextForm().format(record("slot %d: train begins", 0))
    head = "INFO    workers.attempts  job=3fa91c20b7d4 attempt=5c0d1e2f3a4b study=river  slot 0: train begins"
    assert line[20:] == head and line[10] == " "


def test_a_line_for_programs_has_whole_ids() -> None:
    with logs.about(job=JOB, attempt=ATTEMPT, study="river"):
        line = json.loads(logs.JsonForm().format(record("train %s", "堤防\nx", failed=True)))
    assert (line["job"], line["attempt"], line["study"]) == (JOB, ATTEMPT, "river")
    assert (line["level"], line["logger"], line["message"]) == ("info", "workers.attempts", "train 堤防\nx")
    assert line["error"].endswith("KeyError: 'x'") and line["at"].endswith("+00:00")


def test_a_traceback_for_people_follows_its_line() -> None:
    lines = logs.TextForm().format(record("it failed", failed=True)).splitlines()
    assert lines[0].endswith("it failed") and lines[1].startswith("Traceback") and lines[-1] == "KeyError: 'x'"


def test_what_a_line_is_about_ends_with_the_block_and_the_thread() -> None:
    seen: list[dict[str, str]] = []
    with logs.about(study="a"), logs.about(job="b"):
        thread = threading.Thread(target=lambda: seen.append(logs.context()))
        thread.start()
        thread.join()
        assert logs.context() == {"study": "a", "job": "b"}
    assert seen == [{}] and logs.context() == {}


@pytest.mark.parametrize("form", [logs.TextForm(), logs.JsonForm()])
@pytest.mark.parametrize(
    "said",
    [
        "cannot connect to redis://:hush@127.0.0.1:6379/0",
        "postgresql+psycopg://jsm:hush@db/jsm",
        "Authorization: Bearer hush",
        "authorization: bearer hush",
    ],
)
def test_secrets_are_masked(form: logging.Formatter, said: str) -> None:
    assert "hush" not in form.format(record("%s", said))


def test_an_address_without_a_secret_stays() -> None:
    assert logs.masked("http://127.0.0.1:8080/docs and me@example.org") == (
        "http://127.0.0.1:8080/docs and me@example.org"
    )


def test_the_level_and_the_form_are_told(tmp_path: Path) -> None:
    file = tmp_path / "log"
    logs.set_up("json", "warning", file)
    logging.getLogger("x").info("little")
    logging.getLogger("x").warning("much")
    assert [json.loads(line)["message"] for line in file.read_text(encoding="utf-8").splitlines()] == ["much"]


def test_a_second_set_up_replaces_the_first_alone(tmp_path: Path) -> None:
    foreign = logging.NullHandler()
    logging.getLogger().addHandler(foreign)
    logs.set_up("text", "info", tmp_path / "first")
    logs.set_up("text", "info", tmp_path / "second")
    logging.getLogger("x").info("once")
    assert (tmp_path / "first").read_text(encoding="utf-8") == ""
    assert (tmp_path / "second").read_text(encoding="utf-8").count("once") == 1
    assert foreign in logging.getLogger().handlers


def test_libraries_that_tell_each_request_are_told_to_be_quiet(tmp_path: Path) -> None:
    file = tmp_path / "log"
    logs.set_up("text", "debug", file)
    logging.getLogger("httpcore.connection").debug("a header")
    logging.getLogger("mine").debug("wanted")
    assert "a header" not in (said := file.read_text(encoding="utf-8")) and "wanted" in said


def test_a_long_log_is_put_aside(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    assert logs.put_aside(log, 3) == 0
    log.write_text("abc", encoding="utf-8")
    assert logs.put_aside(log, 3) == 3
    log.write_text("abcd", encoding="utf-8")
    assert logs.put_aside(log, 3) == 0
    assert (log.read_text(encoding="utf-8"), (tmp_path / "api.log.1").read_text(encoding="utf-8")) == ("", "abcd")
