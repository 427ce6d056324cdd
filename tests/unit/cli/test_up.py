"""`jsm up` as a user runs it: the real command with its real parts, watched from outside."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jsm_queue.cli import up as module
from jsm_queue.cli.home import read_endpoint, read_token
from jsm_queue.cli.supervisor import Supervisor
from jsm_queue.cli.up import Pool, is_healthy, url_host
from jsm_queue.settings import settings
from tests.pairs import pair_lines

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_S = 60.0
PARTS = ("valkey", "api", "worker", "flower")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")


class Up:
    """A `jsm up` on a home folder, and the command line beside it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        clean = {name: value for name, value in os.environ.items() if not name.startswith("JSM_")}
        self.env = {**clean, "JSM_HOME": str(home)}
        self.process = self.start()

    def start(self) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "jsm_queue.cli", "up"]
        self.process = subprocess.Popen(
            argv, env=self.env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
        )
        until(self.is_up)
        return self.process

    def is_up(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()[0]
        endpoint = read_endpoint(self.home)
        if endpoint is None or endpoint.flower is None or not is_healthy(endpoint.api):
            return False
        return any(worker["live"] for worker in self.json("worker", "list")["workers"])

    def jsm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "jsm_queue.cli", *arguments]
        return subprocess.run(argv, env=self.env, cwd=ROOT, capture_output=True, encoding="utf-8")

    def json(self, *arguments: str) -> Any:
        done = self.jsm(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def pid(self, part: str) -> int:
        return json.loads((self.home / "run" / f"{part}.pid").read_text(encoding="utf-8"))["pid"]

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the deadline passed"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    up = Up(tmp_path_factory.mktemp("pool") / "home")
    yield up
    family = up.family() if up.process.poll() is None else []
    up.process.terminate()
    up.process.communicate(timeout=30)
    assert not [process for process in family if process.is_running()]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study that can be submitted."""
    base = Path(__file__).parents[3] / "examples" / "river" / "bases" / "river-qwen2"
    (tmp_path / "data.jsonl").write_text(pair_lines(60), encoding="utf-8")
    (tmp_path / "study.yaml").write_text(
        "name: small\ndata: {source: data.jsonl, validation: 10, test_unseen: 10}\n"
        f"bases: [{{name: b, source: '{base.as_posix()}'}}]\nstages: {{bases: {{n: 5}}, quantization: null}}\n"
        "decoding: {context: 512, max_new_tokens: 16}\n",
        encoding="utf-8",
    )
    return tmp_path / "study.yaml"


def test_another_pools_api_is_not_taken_for_ours(up: Up) -> None:
    endpoint = read_endpoint(up.home)
    assert endpoint
    for token, ours in ((read_token(up.home) or "", True), ("another", False)):
        assert Pool(up.home, Supervisor(up.home, print), {}, {}, endpoint.api, token)._answers() is ours


@pytest.mark.parametrize("part", ["valkey", "api"])
def test_a_port_that_is_taken_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    choose = module.choose_ports
    for name in [name for name in os.environ if name.startswith("JSM_")]:
        monkeypatch.delenv(name)
    settings.cache_clear()
    with socket.create_server(("127.0.0.1", 0)) as other:
        chosen = [{part: other.getsockname()[1]}, {}]
        monkeypatch.setattr(module, "choose_ports", lambda *given: choose(*given) | chosen.pop(0))
        with module.running(tmp_path / "home") as pool, pool.connect() as api:
            assert api.get("/v1/studies").is_success
    assert chosen == []
    settings.cache_clear()


def test_secrets_are_their_owners_only(up: Up) -> None:
    secrets = [up.home / "admin.token", up.home / "valkey" / "valkey.password", up.home / "worker" / "identity.json"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in secrets] == [0o600] * 3
    assert stat.S_IMODE(up.home.stat().st_mode) == 0o700


def test_no_command_line_shows_a_lasting_secret(up: Up) -> None:
    lasting = [
        (up.home / "admin.token").read_text(encoding="utf-8").strip(),
        (up.home / "valkey" / "valkey.password").read_text(encoding="utf-8").strip(),
    ]
    shown = " ".join(argument for process in up.family() for argument in process.cmdline())
    assert not [secret for secret in lasting if secret in shown]


def test_no_command_line_shows_an_invite(up: Up) -> None:
    assert not [process for process in up.family() if "--invite" in process.cmdline()]


def test_only_a_worker_that_the_store_does_not_know_gets_an_invite(up: Up) -> None:
    endpoint = read_endpoint(up.home)
    assert endpoint
    pool = Pool(up.home, Supervisor(up.home, print), {}, {}, endpoint.api, read_token(up.home) or "")
    assert pool.invite() == {}
    identity = up.home / "worker" / "identity.json"
    kept = identity.read_text(encoding="utf-8")
    for other in (json.dumps({"worker": "of another store", "token": "x"}), "damaged"):
        identity.write_text(other, encoding="utf-8")
        assert pool.invite()["JSM_INVITE"]
    identity.write_text(kept, encoding="utf-8")


def test_everything_listens_on_loopback_alone(up: Up) -> None:
    family = [psutil.Process(up.process.pid), *up.family()]
    listening = [c for process in family for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert len(listening) >= 3
    assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}


def test_a_second_start_on_the_same_home_is_refused(up: Up) -> None:
    done = up.jsm("up")
    assert done.returncode == 3
    assert "is in use" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_study_is_submitted_listed_and_cancelled(up: Up, study: Path) -> None:
    sent = up.json("submit", str(study))
    assert sent["resumed"] is False
    assert up.json("submit", str(study))["resumed"] is True
    until(lambda: bool(up.json("jobs", sent["id"][:6])["jobs"]))
    assert up.json("status", "small")["id"] == sent["id"]
    assert [listed["name"] for listed in up.json("status")["studies"]] == ["small"]
    assert "prepare" in up.jsm("jobs", "small").stdout
    assert "small" in up.jsm("status").stdout
    assert up.json("cancel", "small")["state"] in ("cancelled", "ended")


def test_nohup_keeps_it_running() -> None:
    code = "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); from jsm_queue.cli import up\n"
    code += "with up.signals(signal.default_int_handler): os.kill(os.getpid(), signal.SIGHUP); print('alive')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.stdout == "alive\n", done.stderr


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("fd00::2", "[fd00::2]"),
        ("pc.lan", "pc.lan"),
    ],
)
def test_where_an_api_is_reached_that_listens_there(host: str, told: str) -> None:
    assert url_host(host) == told


def test_an_unknown_study_is_told(up: Up) -> None:
    done = up.jsm("status", "nothing")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert "nothing" in done.stderr


def test_an_invite_is_printed_as_the_command_to_type(up: Up) -> None:
    endpoint = read_endpoint(up.home)
    assert endpoint
    assert f"jsm worker start --api {endpoint.api} --invite " in up.jsm("worker", "invite").stdout


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_killed_comes_back(up: Up, part: str) -> None:
    before = up.pid(part)
    os.kill(before, signal.SIGKILL)
    until(lambda: up.pid(part) != before)
    until(up.is_up)


def test_a_killed_up_leaves_nothing_and_starts_again_on_the_same_data(up: Up) -> None:
    token, worker = (up.home / "admin.token").read_text(encoding="utf-8"), up.json("worker", "list")["workers"][0]["id"]
    family = up.family()
    up.process.kill()
    up.process.communicate()
    until(lambda: not any(process.is_running() for process in family))
    up.start()
    assert (up.home / "admin.token").read_text(encoding="utf-8") == token
    assert up.json("worker", "list")["workers"][0]["id"] == worker


def test_the_local_worker_fetches_bases_itself(up: Up) -> None:
    """Through the api each would lie on this disk twice."""
    assert psutil.Process(up.pid("worker")).environ()["JSM_HUB"] == "direct"


def test_a_removed_local_worker_joins_again_as_another(up: Up) -> None:
    [before] = up.json("worker", "list")["workers"]
    up.json("worker", "remove", before["name"])
    until(up.is_up)
    [after] = up.json("worker", "list")["workers"]
    assert after["name"] == before["name"] and after["id"] != before["id"]


def test_down_ends_everything(up: Up) -> None:
    family = up.family()
    assert up.jsm("down").returncode == 0
    up.process.communicate(timeout=30)
    assert up.process.returncode == 0
    assert not [process for process in family if process.is_running()]
    assert read_endpoint(up.home) is None
    assert up.jsm("down").returncode == 3


def test_ctrl_c_ends_everything(up: Up) -> None:
    up.start()
    family = up.family()
    up.process.send_signal(signal.SIGINT)
    said, _ = up.process.communicate(timeout=30)
    assert up.process.returncode == 0
    assert "goes on where it was" in said
    assert not [process for process in family if process.is_running()]
