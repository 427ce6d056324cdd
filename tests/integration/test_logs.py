"""A real pool's logs: a job's log while it runs and afterwards, what lines are about, and that they tell no secret."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.pool import SHORT, Pool, crash_at, write_study
from tests.waiting import wait_for

pytestmark = pytest.mark.timeout(400)


@dataclass
class Run:
    """A pool whose study ended; what `jsm logs -f` said of its first job, whose first runner died."""

    pool: Pool
    jobs: list[dict[str, Any]]
    followed: subprocess.CompletedProcess[str]

    def job(self, kind: str) -> str:
        return next(job["id"] for job in self.jobs if job["kind"] == kind)


def jsm(pool: Pool, *arguments: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "jsm_queue.cli", *arguments]
    told = {"JSM_API_URL": pool.url, "JSM_TOKEN": pool.token, "JSM_HOME": str(pool.home)}
    return subprocess.Popen(
        argv, env=os.environ | told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )


def finished(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    said, told = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, said, told)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder, home = tmp_path_factory.mktemp("study"), tmp_path_factory.mktemp("home")
    pool = Pool(home)
    try:
        pool.start_valkey()
        pool.start_api(JSM_LOG_FORMAT="json")
        pool.wait_healthy()
        study = pool.submit(write_study(folder, **SHORT), folder)
        pool.start_agent()
        [first] = wait_for(lambda: [j for j in pool.jobs(study) if j["kind"] == "prepare"], "the first job")
        pool.kill("agent")
        following = jsm(pool, "logs", "-f", first["id"])
        assert following.stderr and following.stderr.readline(), "it follows now"
        pool.start_agent(**crash_at(["runner before event progress*"], home / "crashes"))
        pool.wait_ended(study)
        yield Run(pool, pool.jobs(study), finished(following))
    finally:
        pool.close()


def test_following_goes_on_with_the_next_attempt_until_the_job_is_done(run: Run) -> None:
    *_, began, crashed, began_again, accepted, done = run.followed.stderr.splitlines()
    assert run.followed.returncode == 0, run.followed.stderr
    assert began.endswith("on agent") and began_again.endswith("on agent") and began != began_again
    assert "ended: crashed: the runner died by SIGKILL" in crashed and "ended: accepted" in accepted
    assert done.endswith("is done")
    said = run.followed.stdout
    assert said.count("prepare begins on cpu") >= 2 and said.count("prepare is complete") == 1


def test_a_log_is_there_afterwards_with_the_loss(run: Run) -> None:
    done = finished(jsm(run.pool, "logs", run.job("train")[:12]))
    assert done.returncode == 0, done.stderr
    assert "train begins on cpu" in done.stdout and "train is complete after" in done.stdout
    assert "loss=" in done.stdout and "1 of 1" in done.stdout
    assert f"job={run.job('train')[:12]}" in done.stdout and "study=small" in done.stdout


def test_an_earlier_attempt_can_be_named(run: Run) -> None:
    job = run.job("prepare")
    first = run.pool.ask(f"/jobs/{job}")["attempts"][-2]["id"]
    done = finished(jsm(run.pool, "logs", job, "--attempt", first[:8], "--json"))
    pieces = [json.loads(line) for line in done.stdout.splitlines()]
    assert {piece["attempt"] for piece in pieces} == {first}
    assert "prepare begins" in pieces[0]["text"] and "is complete" not in pieces[0]["text"]
    wrong = finished(jsm(run.pool, "logs", job, "--attempt", "f00"))
    assert wrong.returncode == 4 and first[:12] in wrong.stderr


def test_the_apis_lines_are_json_and_say_what_they_are_about(run: Run) -> None:
    lines = [json.loads(line) for line in run.pool.log("api").splitlines()]
    train = run.job("train")
    about = [line for line in lines if line.get("job") == train]
    accepted = next(line for line in about if line["message"].startswith("attempt accepted"))
    assert accepted["attempt"] == run.pool.ask(f"/jobs/{train}")["attempts"][-1]["id"]
    offered = next(line for line in about if line["message"].startswith("attempt offered"))
    assert offered["study"] == "small"


def test_the_workers_lines_say_what_they_are_about(run: Run) -> None:
    lines = run.pool.log("agent").splitlines()
    for words in ("train begins", "train is complete", "result delivered"):
        [line] = [line for line in lines if words in line and f"job={run.job('train')[:12]}" in line]
        assert " attempt=" in line and " study=small" in line


def test_no_secret_is_in_any_log(run: Run) -> None:
    home = run.pool.home
    secrets = [run.pool.token, run.pool.invite]
    secrets.append(json.loads((home / "agent" / "identity.json").read_text(encoding="utf-8"))["token"])
    secrets.append((home / "valkey" / "valkey.password").read_text(encoding="utf-8"))
    assert all(len(secret) > 20 for secret in secrets)
    files = [path for path in home.rglob("*") if path.is_file() and ".log" in path.name]
    names = {path.name for path in files}
    assert {"api.log", "agent.log", "slot0.log", "valkey.log"} <= names
    assert any(path.parent.name == "attempts" for path in files)
    for path in files:
        said = path.read_text(encoding="utf-8", errors="replace")
        assert not any(secret in said for secret in secrets), path


def test_only_its_worker_may_send_an_attempts_log(run: Run) -> None:
    attempt = run.pool.ask(f"/jobs/{run.job('train')}")["attempts"][-1]["id"]
    file: Path = run.pool.home / "logs" / "attempts" / f"{attempt}.log"
    before = file.read_bytes()
    answer = run.pool.http.post(f"/v1/attempts/{attempt}/log", json={"offset": len(before), "text": "forged"})
    assert answer.status_code == 401 and file.read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_an_api_that_is_told_to_end_cuts_no_long_poll_off(run: Run) -> None:
    api = run.pool.parts["api"]
    api.send_signal(signal.SIGTERM)
    assert api.wait(30) in (0, -signal.SIGTERM)
    assert [line for line in map(json.loads, run.pool.log("api").splitlines()) if "error" in line] == []
