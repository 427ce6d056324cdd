"""`jsm worker install-service` and `uninstall-service`: what `workers.service` does, told to a person."""

import json
import subprocess
import sys
from pathlib import Path

from jsm_queue.cli import console
from jsm_queue.cli.home import worker_folder
from jsm_queue.errors import SetupError
from jsm_queue.settings import settings


def run(verb: str, api: str | None, home: Path | None, name: str | None, dry_run: bool) -> None:
    """`verb`: install or uninstall. Raises SetupError."""
    folder = settings().home.resolve()
    argv = [sys.executable, "-m", "workers.service", verb, "--home", str(worker_folder(home))]
    argv += ["--settings-home", str(folder)]
    argv += ["--api", api or settings().api_url or ""] if api or settings().api_url else []
    argv += [*(["--name", name] if name else []), *(["--dry-run"] if dry_run else [])]
    done = subprocess.run(argv, stdout=subprocess.PIPE, encoding="utf-8", errors="replace")
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        fix = "In the project's folder: python scripts/install.py worker"
        raise SetupError(f"workers.service ended with exit status {done.returncode}", fix) from error
    if "message" in answer:
        raise SetupError(answer["message"], answer["fix"])
    if dry_run:
        show(verb, answer)
    elif not answer["existed"] and verb == "uninstall":
        console.out.print(f"there is no service of a worker here: {console.escape(answer['path'])} does not exist")
    elif verb == "install":
        console.out.print(f"the worker runs from now on and starts when you log in: {console.escape(answer['path'])}")
    else:
        console.out.print("the worker is no service any more; its folder stays, and `jsm worker start` still works")


def show(verb: str, answer: dict) -> None:
    """What would be written and run."""
    if verb == "install" and not answer["joined"]:
        console.out.print("# first: join a pool, with --api URL and an invite in JSM_INVITE")
    words = "would be removed" if answer["content"] is None else "would be written"
    console.out.print(f"# {console.escape(answer['path'])} {words}")
    if answer["content"] is not None:
        print(answer["content"].rstrip())
    for command in answer["commands"]:
        console.out.print(f"# then: {console.escape(' '.join(command))}")
