"""Arguments and options that several commands of `jsm` have."""

from pathlib import Path
from typing import Annotated

import typer

Spec = Annotated[Path, typer.Argument(help="the study's YAML file", metavar="SPEC", show_default=False)]
Study = Annotated[
    str,
    typer.Argument(help="a study's id, the first 6 digits of it, or its name", metavar="STUDY", show_default=False),
]
Host = Annotated[
    str | None,
    typer.Option(help="by what address or name other machines find this one; without it its own in the LAN"),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
WorkerHome = Annotated[
    Path | None, typer.Option("--home", help="the worker's own folder; without it worker/ in the home folder")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print what would be written and run, and do nothing")]
Worker = Annotated[
    str,
    typer.Argument(help="a worker's name, or the first 6 digits of its id", metavar="WORKER", show_default=False),
]
WorkerName = Annotated[
    str | None, typer.Option("--name", help="by what name this machine joins, and is known then; without it its host's")
]
