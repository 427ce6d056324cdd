"""A spec's names → content: local files are hashed, hub revisions become commits. `jsm submit` begins here."""

from dataclasses import dataclass, field
from pathlib import Path

from jsm_queue.cli.adapterfiles import with_adapter
from jsm_queue.cli.basefiles import base_files, check_context, check_targets
from jsm_queue.cli.datafiles import data_file
from jsm_queue.cli.inputs import Missing
from jsm_queue.cli.judgefiles import judge_files
from jsm_queue.data.check import check_data
from jsm_queue.errors import JsmError
from jsm_queue.kinds import Inputs
from jsm_queue.spec import StudySpec


@dataclass
class Resolved:
    """What a spec stands for. `files`: sha → the local file to upload."""

    inputs: Inputs
    files: dict[str, Path] = field(default_factory=dict)


def resolve(spec: StudySpec, folder: Path) -> Resolved:
    """Everything that the spec names, relative to its own `folder`.

    Raises DataError or ModelError for what is not there or of another form, SetupError when the hub does not answer.
    """
    return _resolve(spec, folder, _raise, ask_hub=True)


def sketch(spec: StudySpec, folder: Path) -> tuple[Resolved, list[str]]:
    """The same without network and with placeholders for what is missing, and a warning for each of these."""
    warnings: list[str] = []
    resolved = _resolve(spec, folder, lambda error: warnings.append(error.message), ask_hub=False)
    return resolved, warnings


def _raise(error: JsmError) -> None:
    raise error


def _resolve(spec: StudySpec, folder: Path, missing: Missing, ask_hub: bool) -> Resolved:
    files: dict[str, Path] = {}
    data = spec.data
    source = data_file(data.source, folder, files, missing, "data.source", ask_hub)
    bench = data_file(data.bench, folder, files, missing, "data.bench", ask_hub) if data.bench else None
    check_data(spec, source, bench, files)
    bases, facts = {}, {}
    for base in spec.bases:
        ref, facts[base.name] = base_files(base, folder, files, missing, ask_hub)
        bases[base.name] = with_adapter(base, ref, folder, files, missing)
        check_targets(base, spec.training.targets, folder)
        check_context(base, spec.decoding.context, facts[base.name])
    judge = judge_files(spec.judge, folder, files, missing, ask_hub)
    return Resolved(Inputs(source=source, bench=bench, judge=judge, bases=bases, facts=facts), files)
