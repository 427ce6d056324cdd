"""`python -m workers.service install|uninstall|run`: the worker as a service of the user who plays on this machine.

install and uninstall print one line of JSON for `jsm worker install-service` and `uninstall-service`. What is written
holds no secret: the worker has joined before, and its token is in its home.

    Linux    ~/.config/systemd/user/jsm-worker.service
    macOS    ~/Library/LaunchAgents/jsm-worker.plist
    Windows  the task "jsm-worker", from <home>/jsm-worker.xml; `run` starts the agent there, which has no console
"""

import argparse
import json
import os
import platform
import plistlib
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

from jsm_queue import logs, processes
from jsm_queue.errors import JsmError, SetupError
from jsm_queue.files import write_whole
from workers import agent, identity, owner

LABEL = "jsm-worker"
RESTART_S = 10
FINAL = (5, 6)  # exit statuses of a worker that was removed, or replaced by another with its identity
LOG_BYTES = 20_000_000  # of the Windows log, before it is put aside
COMMAND_S = 60.0  # what the system's own programs may take
TASKS = "http://schemas.microsoft.com/windows/2004/02/mit/task"
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
AGAIN = "PT5M"  # Task Scheduler starts what ended with any exit status only when it is due again


@dataclass(frozen=True)
class Service:
    """What runs: the worker of `home`, with the settings of `settings_home`. `api`: None where it knows its own."""

    python: str
    home: Path
    settings_home: Path
    api: str | None
    name: str

    @property
    def arguments(self) -> list[str]:
        """The agent's."""
        return ["--home", str(self.home), *(["--api", self.api] if self.api else []), "--name", self.name]


@dataclass(frozen=True)
class Step:
    """A command of the system's; `must`: whether its failure is ours."""

    argv: tuple[str, ...]
    must: bool = True


@dataclass(frozen=True)
class Plan:
    """One file, None to remove it, and the commands that make the system know of it."""

    path: Path
    content: bytes | None
    steps: tuple[Step, ...]


# ---- what is written ---------------------------------------------------------------------------------------


def unit(service: Service) -> str:
    """The systemd user unit. Keys that judges need may be in <settings home>/worker.env, readable by you alone."""
    argv = " ".join(map(_quoted, [service.python, "-m", "workers", *service.arguments]))
    home = service.settings_home
    return f"""[Unit]
Description=jsm-queue worker
StartLimitIntervalSec=0

[Service]
ExecStart={argv}
Environment={_quoted(f"JSM_HOME={home}", variables=False)}
EnvironmentFile=-{_percent(str(home / "worker.env"))}
WorkingDirectory={_percent(str(home))}
Restart=always
RestartSec={RESTART_S}
RestartPreventExitStatus={" ".join(map(str, FINAL))}
KillMode=mixed
TimeoutStopSec=30
Nice=10

[Install]
WantedBy=default.target
"""


def _quoted(text: str, variables: bool = True) -> str:
    """One word of a unit file; in a command line `$` would be a variable."""
    escaped = _percent(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped.replace("$", "$$") if variables else escaped}"'


def _percent(text: str) -> str:
    return text.replace("%", "%%")


def task(service: Service, user: str) -> bytes:
    """The Task Scheduler's XML, in UTF-16 as it wants it: at logon, on battery too, for as long as it takes."""
    launch = subprocess.list2cmdline(
        ["-m", "workers.service", "run", "--settings-home", str(service.settings_home), *service.arguments]
    )
    root = ElementTree.Element("Task", version="1.4", xmlns=TASKS)
    _add(root, "RegistrationInfo", Description="jsm-queue worker", URI=f"\\{LABEL}")
    logon = _add(_add(root, "Triggers"), "LogonTrigger")
    _add(logon, "Repetition", Interval=AGAIN, StopAtDurationEnd="false")
    _add(logon, "Enabled", "true")
    _add(logon, "UserId", user)
    principal = _add(_add(root, "Principals"), "Principal", UserId=user, LogonType="InteractiveToken")
    _add(principal, "RunLevel", "LeastPrivilege")
    principal.set("id", "Author")
    options = _add(
        root,
        "Settings",
        MultipleInstancesPolicy="IgnoreNew",
        DisallowStartIfOnBatteries="false",
        StopIfGoingOnBatteries="false",
        AllowHardTerminate="true",
        StartWhenAvailable="true",
        RunOnlyIfNetworkAvailable="false",
    )
    _add(options, "IdleSettings", StopOnIdleEnd="false", RestartOnIdle="false")
    for name, text in (
        ("AllowStartOnDemand", "true"),
        ("Enabled", "true"),
        ("Hidden", "false"),
        ("RunOnlyIfIdle", "false"),
        ("WakeToRun", "false"),
        ("ExecutionTimeLimit", "PT0S"),
        ("Priority", "7"),
    ):
        _add(options, name, text)
    _add(options, "RestartOnFailure", Interval="PT1M", Count="255")
    actions = _add(root, "Actions")
    actions.set("Context", "Author")
    _add(
        actions,
        "Exec",
        Command=service.python,
        Arguments=launch,
        WorkingDirectory=str(service.settings_home),
    )
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-16", xml_declaration=True)


def _add(parent: ElementTree.Element, tag: str, text: str | None = None, **children: str) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, tag)
    element.text = text
    for name, value in children.items():
        ElementTree.SubElement(element, name).text = value
    return element


def plist(service: Service) -> bytes:
    """The launchd agent: at login, and again when it ends badly."""
    log = str(service.home / "logs" / "agent.log")
    return plistlib.dumps(
        {
            "Label": LABEL,
            "ProgramArguments": [service.python, "-m", "workers", *service.arguments],
            "EnvironmentVariables": {"JSM_HOME": str(service.settings_home)},
            "WorkingDirectory": str(service.settings_home),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": RESTART_S,
            "Nice": 10,
            "StandardOutPath": log,
            "StandardErrorPath": log,
        }
    )


# ---- what is done ------------------------------------------------------------------------------------------


def installing(service: Service, system: str) -> Plan:
    """The file and the commands for `sys.platform` "linux", "darwin" or "win32". Again the same: nothing restarts."""
    path = file_of(service.home, system)
    if system == "win32":
        content = task(service, owner.user_name())
        create = Step(("schtasks", "/Create", "/TN", LABEL, "/XML", str(path), "/F"))
        return Plan(path, content, (create, Step(("schtasks", "/Run", "/TN", LABEL))))
    if system == "darwin":
        domain = f"gui/{_uid()}"
        out = Step(("launchctl", "bootout", f"{domain}/{LABEL}"), must=False)
        return Plan(path, plist(service), (out, Step(("launchctl", "bootstrap", domain, str(path)))))
    content = unit(service).encode()
    start = ("enable", "--now") if _is_same(path, content) else ("enable",)
    steps = [_systemctl("daemon-reload"), _systemctl(*start, path.name)]
    return Plan(path, content, (*steps, *([] if "--now" in start else [_systemctl("restart", path.name)])))


def uninstalling(home: Path, system: str) -> Plan:
    """What ends the service and removes its file. The worker's home stays, and what it joined."""
    path = file_of(home, system)
    if system == "win32":
        end = Step(("schtasks", "/End", "/TN", LABEL), must=False)
        return Plan(path, None, (end, Step(("schtasks", "/Delete", "/TN", LABEL, "/F"), must=False)))
    if system == "darwin":
        return Plan(path, None, (Step(("launchctl", "bootout", f"gui/{_uid()}/{LABEL}"), must=False),))
    disable = _systemctl("disable", "--now", path.name, must=False)
    return Plan(path, None, (disable, _systemctl("daemon-reload", must=False)))


def file_of(home: Path, system: str) -> Path:
    """Where the service is written down."""
    if system == "win32":
        return home / f"{LABEL}.xml"
    if system == "darwin":
        return Path.home() / "Library" / "LaunchAgents" / f"{LABEL}.plist"
    config = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(config) / "systemd" / "user" / f"{LABEL}.service"


def _systemctl(*words: str, must: bool = True) -> Step:
    return Step(("systemctl", "--user", *words), must)


def _uid() -> int:
    return getattr(os, "getuid", lambda: 0)()


def _is_same(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def carry_out(plan: Plan) -> None:
    """Write, then run; to remove it is the other way round. Raises SetupError for a command that must not fail."""
    if plan.content is not None and not _is_same(plan.path, plan.content):
        write_whole(plan.path, plan.content)
    for step in plan.steps:
        _run(step, plan.path)
    if plan.content is None:
        plan.path.unlink(missing_ok=True)


def _run(step: Step, path: Path) -> None:
    line = " ".join(step.argv)
    try:
        done = subprocess.run(step.argv, capture_output=True, encoding="utf-8", errors="replace", timeout=COMMAND_S)
    except FileNotFoundError as error:
        if step.must:
            fix = "Start `jsm worker start` with what starts programs on this machine"
            raise SetupError(f"{step.argv[0]} is not there, so no service was made of {path}", fix) from error
        return
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"`{line}` took more than {COMMAND_S:.0f} s", "Try again, or run it yourself") from error
    if done.returncode and step.must:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[:1]
        fix = f"{path} is written. In the session of the user who plays here: {line}"
        raise SetupError(f"`{line}` failed: {said[0] if said else f'exit status {done.returncode}'}", fix)


# ---- the command line --------------------------------------------------------------------------------------


def prepared(given: argparse.Namespace) -> Service:
    """The service of these arguments. Joins the pool where that was not done and there is an invite in JSM_INVITE.

    Raises JsmError: without identity and invite, where a worker runs that is none of ours, and for a name that would
    be a line of its own in the service's file.
    """
    if given.api and not _is_address(given.api):
        raise SetupError(f"{given.api!r} is not an api's URL", "Write it like https://192.168.0.5:8080")
    home = given.home.resolve()
    for word in (str(home), str(given.settings_home.resolve()), given.name):
        if CONTROL.search(word):
            raise SetupError(f"{word!r} holds a line break or the like, which no service can", "Give it another name")
    if not given.dry_run:
        if processes.find_leftover(home / "agent.pid") and not file_of(home, sys.platform).exists():
            raise SetupError(f"A worker already runs in {home}", "Stop it; the service starts it again")
        invite = os.environ.pop(agent.INVITE, None)
        agent.join(home, given.api, invite, given.name)
    return Service(python(sys.platform), home, given.settings_home.resolve(), given.api, given.name)


def _is_address(url: str) -> bool:
    """Whether it is one without a password, which everybody could read in the service's file."""
    address = urlsplit(url)
    return address.scheme in ("http", "https") and bool(address.hostname) and "@" not in address.netloc


def python(system: str) -> str:
    """This interpreter; on Windows the one without a console."""
    here = Path(sys.executable)
    windowless = here.with_name("pythonw.exe")
    return str(windowless if system == "win32" and windowless.exists() else here)


def run(service: Service) -> int:
    """Be the agent in a process that has neither console nor environment of its own. Returns its exit status."""
    os.environ["JSM_HOME"] = str(service.settings_home)
    log = service.home / "logs" / "agent.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        logs.put_aside(log, LOG_BYTES)
    with log.open("a", encoding="utf-8", buffering=1) as output:
        sys.stdout = sys.stderr = output
        sys.argv = ["workers", *service.arguments]
        return agent.main()


def main() -> int:
    """Returns the exit status. install and uninstall say {"message", "fix"}, or what they did:
    {"path", "content", "commands"}, whether there was a service before (`existed`), and whether this worker `joined`.
    """
    parser = argparse.ArgumentParser(prog="python -m workers.service")
    parser.add_argument("verb", choices=("install", "uninstall", "run"))
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--settings-home", type=Path, default=Path(".jsm"))
    parser.add_argument("--api")
    parser.add_argument("--name", default=platform.node() or "worker")
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args()
    if given.verb == "run":
        return run(Service(sys.executable, given.home, given.settings_home, given.api, given.name))
    try:
        install = given.verb == "install"
        plan = (
            installing(prepared(given), sys.platform) if install else uninstalling(given.home.resolve(), sys.platform)
        )
        existed = plan.path.exists()
        if not given.dry_run:
            carry_out(plan)
    except JsmError as error:
        print(json.dumps({"message": error.message, "fix": error.fix}))
        return error.exit_code
    content = None if plan.content is None else plan.content.decode("utf-16" if sys.platform == "win32" else "utf-8")
    commands = [list(step.argv) for step in plan.steps]
    joined = identity.is_there(given.home)
    answer = {"path": str(plan.path), "content": content, "commands": commands, "joined": joined, "existed": existed}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
