"""What a machine that joins gets: where the api is, the scripts, the wheel; and who gets it."""

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlmodel import select

from api import brokerusers, wheel
from api.app import create_app
from jsm_queue import acl, tls
from jsm_queue.cli.invite import lines
from jsm_queue.protocol import Place
from jsm_queue.settings import Settings
from jsm_queue.store import tables as t
from jsm_queue.store.database import open_store, reading, writing
from jsm_queue.store.tokens import create_token
from workers import provision

SCRIPTS = Path(wheel.__file__).parent / "join"
ROOT = Path(__file__).resolve().parents[2]


def settings(home: Path, **changes: str) -> Settings:
    return Settings.model_validate({"home": home, "broker_url": "redis://:admin@127.0.0.1:1/0", "tick_s": 60} | changes)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(settings(tmp_path))) as made:
        yield made


def invite(home: Path) -> str:
    store = open_store(settings(home).store_url)
    try:
        return create_token(store, "invite")
    finally:
        store.dispose()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def join(api: TestClient, home: Path) -> tuple[str, dict[str, str]]:
    """A worker's id, and the header with its token."""
    joined = api.post("/v1/workers/join", json={"name": "pc"}, headers=bearer(invite(home))).json()
    assert "admin" not in str(joined)
    return joined["worker"], bearer(joined["token"])


# ---- routes ------------------------------------------------------------------------------------------------


def test_an_api_without_tls_names_no_key(api: TestClient) -> None:
    place = Place.model_validate(api.get("/v1/join").json())
    assert place == Place(version=wheel.version())


def test_scripts_are_open_and_the_wheel_needs_an_invite_or_a_worker(api: TestClient, tmp_path: Path) -> None:
    assert api.get("/join.sh").text == (SCRIPTS / "join.sh").read_text(encoding="utf-8")
    assert api.get("/join.ps1").text == (SCRIPTS / "join.ps1").read_text(encoding="utf-8")
    token, (_, worker) = invite(tmp_path), join(api, tmp_path)
    for path in ("/v1/join/wheel", "/v1/join/constraints"):
        for refused in ({}, bearer("wrong")):
            assert api.get(path, headers=refused).status_code == 401
        for allowed in (bearer(token), worker):
            assert api.get(path, headers=allowed).is_success


def test_a_worker_is_told_its_user_and_nobodys_password(api: TestClient, tmp_path: Path) -> None:
    worker, header = join(api, tmp_path)
    held = acl.password_hash("chosen")
    reply = api.post("/v1/worker/broker", json={"secret_hash": held}, headers=header).json()
    assert reply == {
        "broker_url": "redis://127.0.0.1:1/0",
        "queue": f"jsm.w.{worker}",
        "user": f"jsm-{worker}",
        "ca": None,
    }
    store = open_store(settings(tmp_path).store_url)
    with reading(store) as session:
        assert session.exec(select(t.Worker.broker_secret_hash)).one() == held
    store.dispose()
    assert api.get("/v1/worker/broker", headers=header).status_code == 401, "it has a password: it needs no other"


@pytest.mark.parametrize("wrong", ["", "x", "A" * 64, "0" * 63, ">password", "0" * 64 + " ~*"])
def test_what_is_no_hash_gets_no_user(api: TestClient, tmp_path: Path, wrong: str) -> None:
    _, header = join(api, tmp_path)
    assert api.post("/v1/worker/broker", json={"secret_hash": wrong}, headers=header).status_code == 422


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "pc.local"}, False),
        ({"public_url": "https://192.168.0.5:8080"}, False),
        ({"broker_public_url": "rediss://192.168.0.5:6380/0"}, False),
    ],
)
def test_an_old_worker_learns_the_brokers_password_on_this_machine_alone(
    tmp_path: Path, changes: dict[str, str], told: bool
) -> None:
    with TestClient(create_app(settings(tmp_path, **changes))) as api:
        _, header = join(api, tmp_path)
        answer = api.get("/v1/worker/broker", headers=header)
    assert (answer.status_code == 200) is told
    assert (":admin@" in answer.text) is told


def test_where_acl_is_refused_all_share_the_brokers_url(
    api: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, header = join(api, tmp_path)
    monkeypatch.setattr(acl.Users, "sync", lambda self, *_: setattr(self, "allowed", False))
    reply = api.post("/v1/worker/broker", json={"secret_hash": "0" * 64}, headers=header).json()
    assert reply["user"] is None and reply["broker_url"] == "redis://:admin@127.0.0.1:1/0"


def test_removed_workers_and_those_without_a_password_are_no_users(
    api: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [join(api, tmp_path)[0] for _ in range(3)]
    context = api.app.state.context  # type: ignore[attr-defined]
    with writing(context.engine) as session:
        for worker, state in zip(ids, ("active", "removed", "active"), strict=True):
            session.get_one(t.Worker, worker).state = state
        for worker in ids[:2]:
            session.get_one(t.Worker, worker).broker_secret_hash = "0" * 64
    told: list[tuple] = []
    monkeypatch.setattr(acl.Users, "sync", lambda _, *given: told.append(given))
    (tmp_path / "flower.password").write_text("secret\n", encoding="utf-8")
    brokerusers.sync(context)
    assert told == [({ids[0]: "0" * 64}, [ids[1]], acl.password_hash("secret"))]


# ---- the wheel ---------------------------------------------------------------------------------------------


def test_the_wheel_is_this_version_and_the_same_each_time(tmp_path: Path) -> None:
    file = wheel.wheel(tmp_path)
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    assert file.name == f"jsm_queue-{wheel.version()}-py3-none-any.whl" and file.parent.name == before
    assert wheel.wheel(tmp_path) == file
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        assert archive.read("workers/agent.py") == (ROOT / "workers" / "agent.py").read_bytes()
        about = archive.read(f"jsm_queue-{wheel.version()}.dist-info/METADATA").decode()
    assert {"api/join/join.sh", "api/join/join.ps1", "api/join/constraints.txt", "jsm_queue/report/template.html"} <= {
        *names
    }
    assert not [name for name in names if "__pycache__" in name or name.startswith(("/", "tests", "."))]
    assert "Requires-Dist: cryptography" in about and "Provides-Extra: worker" in about
    assert about.count("Requires-Dist: torch") == 1


def test_pip_takes_the_wheel(tmp_path: Path) -> None:
    target = tmp_path / "target"
    argv = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*argv, str(wheel.wheel(tmp_path))], check=True)
    assert (target / "workers" / "provision.py").is_file() and (target / "api" / "join" / "join.sh").is_file()
    scripts = (target / f"jsm_queue-{wheel.version()}.dist-info" / "entry_points.txt").read_text(encoding="utf-8")
    assert "jsm = jsm_queue.cli.__main__:main" in scripts


def test_the_constraints_allow_every_build_of_torch() -> None:
    [pin] = [line for line in wheel.constraints().splitlines() if line.startswith("torch==")]
    assert "+" not in pin


# ---- what is installed there -------------------------------------------------------------------------------


def test_llama_cpp_is_compiled_and_all_else_downloaded() -> None:
    requires = ["httpx>=0.28", "torch<3,>=2.10; extra == 'worker'", "llama-cpp-python>=0.3; extra == 'worker'"]
    requires += ["fastapi; extra == 'api'", "pywin32; sys_platform == 'nowhere' and extra == 'worker'"]
    downloaded, compiled = provision.needed(requires)
    assert downloaded == ["torch<3,>=2.10"] and compiled == ["llama-cpp-python>=0.3"]


# ---- lines and scripts -------------------------------------------------------------------------------------

URL, MARK = "https://192.168.0.5:8080", "AbCd-_" + "x" * 37


def test_each_system_has_a_line_that_pins_the_server() -> None:
    place = Place(version="1", fingerprint=MARK, certificate="0f" * 32)
    typed = lines(URL, f"token.{MARK}", place)
    assert list(typed) == ["sh", "powershell", "jsm"]
    assert f"--pinnedpubkey '{tls.curl_pin(MARK)}' {URL}/join.sh | " in typed["sh"]
    assert "token" not in typed["sh"].split("|")[0], "the invite is in no argument of curl"
    assert f"Hash='{'0f' * 32}'" in typed["powershell"] and "ServerCertificateValidationCallback" in typed["powershell"]
    assert "{{" not in typed["powershell"] and "\n" not in typed["powershell"]
    assert list(lines("http://127.0.0.1:8080", "token", Place(version="1"))) == ["jsm"]


@pytest.mark.skipif(shutil.which("sh") is None, reason="no sh")
def test_the_script_for_sh_does_nothing_before_it_arrived_whole() -> None:
    text = (SCRIPTS / "join.sh").read_text(encoding="utf-8")
    assert text.rstrip().endswith('main "$@"')
    outside = re.sub(r"^[a-z_]+\(\) \{.*?^\}$", "", text, flags=re.MULTILINE | re.DOTALL)
    left = [line for line in outside.splitlines() if line and not line.startswith(("#", "CHECK=", "say()"))]
    assert left == ["set -eu", 'main "$@"']
    assert subprocess.run(["sh", "-n"], input=text.encode(), check=False).returncode == 0


def test_the_script_for_powershell_has_the_same_steps() -> None:
    """As text: no PowerShell is here to parse it. Its brackets and quotes close, and it asks for what join.sh does."""
    text = (SCRIPTS / "join.ps1").read_text(encoding="utf-8")
    text.encode("ascii")  # Windows PowerShell reads a downloaded script in a code page of its own
    for path in ("/v1/join", "/v1/join/wheel", "/v1/join/constraints"):
        assert f"'{path}'" in text and path in (SCRIPTS / "join.sh").read_text(encoding="utf-8")
    for step in (
        "-m', 'venv'",
        "--force-reinstall",
        "workers.provision",
        "-m workers ",
        "--join",
        "worker doctor",
        "Get-Jsm",
    ):
        assert step in text
    code = re.sub(r"'[^'\n]*'|\"[^\"\n]*\"|#.*", "", text)
    assert "'" not in code and '"' not in code
    for opening, closing in ("{}", "()", "[]"):
        assert code.count(opening) == code.count(closing)
