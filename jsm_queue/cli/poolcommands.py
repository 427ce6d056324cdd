"""`jsm tls`, `jsm worker`, `jsm token`: certificates, machines and people. Each command's work is in the module of its
group's name.
"""

from pathlib import Path
from typing import Annotated

import typer

from jsm_queue.cli.options import DryRun, Json, Worker, WorkerHome, WorkerName

tls = typer.Typer(help="Certificates of the pool's own.", no_args_is_help=True)
worker = typer.Typer(help="The machines of the pool.", no_args_is_help=True)
token = typer.Typer(help="Who may use the api: tokens of people.", no_args_is_help=True)


@token.command("create")
def token_create(
    scope: Annotated[str, typer.Option(help="what it may do: admin, submit (and read) or read")],
    name: Annotated[str, typer.Option(help="what people call it, e.g. whose it is")],
    days: Annotated[float | None, typer.Option(help="how long it is good; without it until it is revoked")] = None,
    json: Json = False,
) -> None:
    """Make a token, and print it this once: the store keeps only its hash."""
    from jsm_queue.cli import tokens

    tokens.create(scope, name, days, json)


@token.command("list")
def token_list(json: Json = False) -> None:
    """List the tokens: names, scopes and times, no secrets."""
    from jsm_queue.cli import tokens

    tokens.show(json)


@token.command("revoke")
def token_revoke(
    token: Annotated[
        str, typer.Argument(help="its name, or the first 6 digits of its id", metavar="TOKEN", show_default=False)
    ],
    json: Json = False,
) -> None:
    """Make a token good for nothing, at once.

    The home folder's own comes back: `jsm up` makes a new one there.
    """
    from jsm_queue.cli import tokens

    tokens.revoke(token, json)


@worker.command("pause")
def worker_pause(worker: Worker, json: Json = False) -> None:
    """Let a worker take nothing new, and hold what it runs where it is; its memory stays taken."""
    from jsm_queue.cli import workers

    workers.change(worker, "pause", json)


@worker.command("resume")
def worker_resume(worker: Worker, json: Json = False) -> None:
    """Let a paused or drained worker take part again."""
    from jsm_queue.cli import workers

    workers.change(worker, "resume", json)


@worker.command("drain")
def worker_drain(worker: Worker, json: Json = False) -> None:
    """Let a worker take nothing new and give back what it runs; others go on with it."""
    from jsm_queue.cli import workers

    workers.change(worker, "drain", json)


@worker.command("remove")
def worker_remove(worker: Worker, json: Json = False) -> None:
    """Put a worker out of the pool for good: its token is good for nothing from now on."""
    from jsm_queue.cli import workers

    workers.change(worker, "remove", json)


@tls.command("init")
def tls_init(
    host: Annotated[
        list[str] | None,
        typer.Option(help="an address or name by which machines find this one; may be given several times"),
    ] = None,
    json: Json = False,
) -> None:
    """Make a local authority and a server certificate in the home folder, where they are missing or end soon.

    `jsm up --lan` does so by itself. A renewed certificate keeps its key: machines that joined go on.
    """
    from jsm_queue.cli import tls

    tls.init(host or [], json)


@worker.command("start")
def worker_start(
    api: Annotated[
        str | None, typer.Option(help="URL of the api; without it JSM_API_URL, or that of the pool it joined")
    ] = None,
    invite: Annotated[str | None, typer.Option(help="the invite; needed the first time only")] = None,
    home: Annotated[
        Path | None, typer.Option(help="the worker's own folder; without it worker/ in the home folder")
    ] = None,
    name: WorkerName = None,
) -> None:
    """Let this machine work for a pool, until Ctrl-C."""
    from jsm_queue.cli import workers

    raise typer.Exit(workers.start(api, invite, home, name))


@worker.command("yield")
def worker_yield(
    period: Annotated[
        str | None, typer.Option("--for", help="for so long: 2h, 90m, 1h30m; without it until you say --end")
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="let the worker work again")] = False,
    home: WorkerHome = None,
    json: Json = False,
) -> None:
    """On a worker's own machine: have it give the machine back now, GPU memory and all.

    Needs no network. What ran is saved and goes on later, here or elsewhere.
    """
    from jsm_queue.cli import courtesy

    raise typer.Exit(courtesy.give_back(period, end, home, json))


@worker.command("doctor")
def worker_doctor(home: WorkerHome = None, json: Json = False) -> None:
    """On a worker's own machine: what it can do for its pool, what it lacks, and what is known of its owner.

    The exit status is 3 when something is a problem.
    """
    from jsm_queue.cli import courtesy

    raise typer.Exit(courtesy.examine(home, json))


@worker.command("install-service")
def worker_install_service(
    api: Annotated[
        str | None, typer.Option(help="URL of the api; without it JSM_API_URL, or that of the pool it joined")
    ] = None,
    home: WorkerHome = None,
    name: WorkerName = None,
    dry_run: DryRun = False,
) -> None:
    """Let this machine's worker start whenever you log in: systemd, launchd or the Windows Task Scheduler.

    It joins first where it has not, with the invite in JSM_INVITE. Called again, it changes what changed.
    """
    from jsm_queue.cli import service

    service.run("install", api, home, name, dry_run)


@worker.command("uninstall-service")
def worker_uninstall_service(home: WorkerHome = None, dry_run: DryRun = False) -> None:
    """End the service that `jsm worker install-service` made. The worker's folder stays."""
    from jsm_queue.cli import service

    service.run("uninstall", None, home, None, dry_run)


@worker.command("list")
def worker_list(json: Json = False) -> None:
    """List the pool's workers and their slots."""
    from jsm_queue.cli import workers

    workers.list_workers(json)


@worker.command("invite")
def worker_invite(json: Json = False) -> None:
    """Make an invite with which one machine may join the pool, within an hour, and print what to type there."""
    from jsm_queue.cli import invite

    invite.invite(json)
