"""`jsm`: the command line. Each command's work is in the module of its name."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from jsm_queue.cli import console
from jsm_queue.errors import JsmError, SetupError

app = typer.Typer(
    help="Finds the small Japanese model to deploy: grids of fine-tuning, quantization and evaluation jobs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
worker = typer.Typer(help="The machines of the pool.", no_args_is_help=True)
app.add_typer(worker, name="worker")

Spec = Annotated[Path, typer.Argument(help="the study's YAML file", metavar="SPEC", show_default=False)]
Study = Annotated[
    str,
    typer.Argument(help="a study's id, the first 6 digits of it, or its name", metavar="STUDY", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def main() -> None:
    """The program `jsm`: every error is one line that says what to do, and an exit status."""
    try:
        app()
    except (JsmError, ValidationError) as error:
        if os.environ.get("JSM_DEBUG"):
            raise
        told = error if isinstance(error, JsmError) else settings_error(error)
        console.print_error(told.message, told.fix)
        sys.exit(told.exit_code)
    except OSError as error:
        if os.environ.get("JSM_DEBUG"):
            raise
        where = f": {error.filename}" if error.filename else ""
        console.print_error(f"{error.strerror or error}{where}", "Check that path, its owner and the free disk")
        sys.exit(SetupError.exit_code)


def settings_error(error: ValidationError) -> JsmError:
    """Wrong settings in words. Raises the error again when it is about something else, which would be a bug."""
    if error.title != "Settings":
        raise error
    found = "; ".join(f"JSM_{'_'.join(map(str, item['loc'])).upper()}: {item['msg']}" for item in error.errors())
    return SetupError(found, "Correct the variable or settings.toml; docs/settings.md has them all")


@app.command()
def up() -> None:
    """Start a pool on this machine and keep it running until Ctrl-C or `jsm down`.

    Starts the store (SQLite), the queue (Valkey), the api with its coordinator, one worker and Flower.
    Everything is kept in the home folder (JSM_HOME, or .jsm). Ports are free ones unless JSM_API_PORT and
    JSM_FLOWER_PORT tell.
    """
    from jsm_queue.cli import up

    up.run()


@app.command()
def down() -> None:
    """Stop the pool that `jsm up` or `jsm demo --keep` runs on this home folder."""
    from jsm_queue.cli import up

    up.down()


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="leave api, worker and Flower up afterwards")] = False,
) -> None:
    """Run the example study on this machine, through all three stages, and write its report.

    A second call reuses every finished job. Ctrl-C stops everything; the next call goes on where it was.
    """
    from jsm_queue.cli import demo

    raise typer.Exit(demo.run(keep))


@app.command()
def init(
    folder: Annotated[
        Path,
        typer.Argument(
            help="the folder, made where it is missing; without it this one", metavar="[DIR]", show_default=False
        ),
    ] = Path(),
) -> None:
    """Write a commented study.yaml and a sample data.jsonl, for your own data."""
    from jsm_queue.cli import init

    init.run(folder)


@app.command()
def plan(
    spec: Spec,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="ask no hub, and put placeholders in the place of missing files")
    ] = False,
    json: Json = False,
) -> None:
    """Show the job grid of a study, stage by stage, and about how long it takes.

    Needs no running api and downloads nothing.
    """
    from jsm_queue.cli import plan

    plan.run(spec, dry_run, json)


@app.command()
def submit(
    spec: Spec,
    watch: Annotated[bool, typer.Option("--watch", help="follow the study to its end")] = False,
    json: Json = False,
) -> None:
    """Start a study. The same spec with the same data again returns or resumes it."""
    from jsm_queue.cli import studies

    raise typer.Exit(studies.submit(spec, watch, json))


@app.command()
def status(
    study: Annotated[
        str | None,
        typer.Argument(
            help="a study's id, the first 6 digits of it, or its name; without one all are listed",
            metavar="[STUDY]",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List the studies, or show one with its figures and verdicts so far."""
    from jsm_queue.cli import studies

    studies.status(study, json)


@app.command()
def jobs(
    study: Study,
    state: Annotated[
        str | None,
        typer.Option(help="only those: waiting, ready, active, done, failed, quarantined, skipped"),
    ] = None,
    json: Json = False,
) -> None:
    """List a study's jobs."""
    from jsm_queue.cli import studies

    studies.jobs(study, state, json)


@app.command()
def cancel(study: Study, json: Json = False) -> None:
    """Cancel a study. Finished jobs are kept, and jobs that another study wants go on."""
    from jsm_queue.cli import studies

    studies.cancel(study, json)


@app.command()
def report(
    study: Study,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="the HTML file to write")] = None,
    json: Json = False,
) -> None:
    """Write a study's report as one HTML file that works offline, or print it as JSON."""
    from jsm_queue.cli import studies

    studies.report(study, output, json)


@worker.command("start")
def worker_start(
    api: Annotated[str | None, typer.Option(help="URL of the api; without it JSM_API_URL")] = None,
    invite: Annotated[str | None, typer.Option(help="the invite; needed the first time only")] = None,
    home: Annotated[
        Path | None, typer.Option(help="the worker's own folder; without it worker/ in the home folder")
    ] = None,
    name: Annotated[str | None, typer.Option(help="what people call this machine; without it its host name")] = None,
) -> None:
    """Let this machine work for a pool, until Ctrl-C."""
    from jsm_queue.cli import workers

    raise typer.Exit(workers.start(api, invite, home, name))


@worker.command("list")
def worker_list(json: Json = False) -> None:
    """List the pool's workers and their slots."""
    from jsm_queue.cli import workers

    workers.list_workers(json)


@worker.command("invite")
def worker_invite(json: Json = False) -> None:
    """Make an invite with which one machine may join the pool, within an hour."""
    from jsm_queue.cli import workers

    workers.invite(json)


if __name__ == "__main__":
    main()
