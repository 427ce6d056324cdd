"""`jsm`: the command line. Each command's work is in the module of its name."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from jsm_queue.cli import console, poolcommands
from jsm_queue.cli.options import Host, Json, Spec, Study
from jsm_queue.errors import JsmError, SetupError
from jsm_queue.processes import SAFE_PATH

app = typer.Typer(
    help="Finds the small Japanese model to deploy: grids of fine-tuning, quantization and evaluation jobs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(poolcommands.tls, name="tls")
app.add_typer(poolcommands.worker, name="worker")
app.add_typer(poolcommands.token, name="token")


def main() -> None:
    """The program `jsm`: every error is one line that says what to do, and an exit status."""
    os.environ.update(SAFE_PATH)
    try:
        app()
    except JsmError as error:
        if os.environ.get("JSM_DEBUG"):
            raise
        console.print_error(error.message, error.fix)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # who read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if os.environ.get("JSM_DEBUG"):
            raise
        where = f": {error.filename}" if error.filename else ""
        console.print_error(f"{error.strerror or error}{where}", "Check that path, its owner and the free disk")
        sys.exit(SetupError.exit_code)


@app.command()
def up(
    lan: Annotated[
        bool, typer.Option("--lan", help="let other machines join: api and queue are opened to the LAN, with TLS")
    ] = False,
    host: Host = None,
) -> None:
    """Start a pool on this machine and keep it running until Ctrl-C or `jsm down`.

    Starts the store (SQLite), the queue (Valkey), the api with its coordinator, one worker and Flower.
    Everything is kept in the home folder (JSM_HOME, or .jsm). Ports are free ones unless JSM_API_PORT and
    JSM_FLOWER_PORT tell. Everything listens on this machine alone, but for what --lan opens.
    """
    from jsm_queue.cli import up

    up.run(lan, host)


@app.command()
def serve(host: Host = None) -> None:
    """Start a pool for other machines: as `jsm up --lan`, but this machine itself does not work for it.

    Flower stays on this machine.
    """
    from jsm_queue.cli import up

    up.run(True, host, worker=False)


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
def watch(study: Study) -> None:
    """Follow a study to its end. The exit status is 1 when a job failed. Ctrl-C ends the watching, not the study."""
    from jsm_queue.cli import studies

    raise typer.Exit(studies.follow(study))


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
def pause(study: Study, json: Json = False) -> None:
    """Pause a study: nothing of it begins, and what runs gives its slot back."""
    from jsm_queue.cli import studies

    studies.change(study, "pause", json)


@app.command()
def resume(study: Study, json: Json = False) -> None:
    """Let a paused study go on."""
    from jsm_queue.cli import studies

    studies.change(study, "resume", json)


@app.command()
def retry(study: Study, json: Json = False) -> None:
    """Try a study's failed and quarantined jobs again. Verdicts that are written stand."""
    from jsm_queue.cli import studies

    studies.change(study, "retry", json)


@app.command()
def report(
    study: Study,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="the file to write; .md makes it Markdown")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Markdown instead of HTML, without charts")] = False,
    json: Json = False,
) -> None:
    """Write a study's report as one HTML file that works offline or as Markdown, or print it as JSON."""
    from jsm_queue.cli import studies

    studies.report(study, output, markdown, json)


@app.command()
def logs(
    job: Annotated[str, typer.Argument(help="a job's id, or its first 6 digits", metavar="JOB", show_default=False)],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="go on until the job is done or given up, through all its attempts")
    ] = False,
    attempt: Annotated[str | None, typer.Option(help="this attempt, not the newest")] = None,
    json: Json = False,
) -> None:
    """Print the log of a job's newest attempt, while it runs and afterwards.

    With --follow the exit status is 1 when the job did not get done. Ctrl-C ends the printing, not the job.
    """
    from jsm_queue.cli import logs

    raise typer.Exit(logs.run(job, follow, attempt, json))


@app.command()
def why(
    job: Annotated[str, typer.Argument(help="a job's id, or its first 6 digits", metavar="JOB", show_default=False)],
    json: Json = False,
) -> None:
    """Say in one sentence why a job waits, where it runs, or why it ended."""
    from jsm_queue.cli import why

    why.run(job, json)


@app.command()
def doctor(json: Json = False) -> None:
    """Check this machine: Python and packages, GPU and torch, compiler, disk, ports, clock, hub, queue and store.

    Each trouble comes with what to do. The exit status is 3 when something is a problem.
    """
    from jsm_queue.cli import doctor

    raise typer.Exit(doctor.run(json))


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="where backups are kept; a later one adds what is new", metavar="DIR")],
    json: Json = False,
) -> None:
    """Write the store and its artifacts into a folder, also while the pool runs. Needs no running api."""
    from jsm_queue.cli import backup

    backup.backup(folder, json)


@app.command()
def restore(
    store: Annotated[Path, typer.Argument(help="a store-….sqlite that `jsm backup` wrote", metavar="FILE")],
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    json: Json = False,
) -> None:
    """Put a backup in the place of everything that the store holds, also while the pool runs.

    Workers say hello again by themselves; what they finish counts where the restored store knows of it.
    """
    from jsm_queue.cli import backup

    backup.restore(store, yes, json)


@app.command()
def collect(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would go, and remove nothing")] = False,
    json: Json = False,
) -> None:
    """Remove the api's files that no job and no study refers to and that nobody touched for a day.

    Also uploads that broke off and logs of attempts that ended 30 days ago.
    """
    from jsm_queue.cli import backup

    backup.collect(dry_run, json)
