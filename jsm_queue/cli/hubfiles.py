"""A base of the hub before anything is submitted: its commit, and what its file list and small files tell."""

import re
from pathlib import Path
from typing import Any

from jsm_queue.cli import basefacts
from jsm_queue.errors import HubAwayError, HubRefusedError, JsmError, ModelDamagedError, SetupError, located
from jsm_queue.kinds import BaseFacts
from jsm_queue.modelfiles import folder
from jsm_queue.spec import BaseSpec

COMMIT = re.compile(r"[0-9a-f]{40}")
PACKAGE_FIX = "pip install 'jsm-queue[worker]', or name a local folder"
REFUSED_FIX = (
    "Check id and revision (a folder begins with ./); a gated model wants its licence accepted on its page, and "
    "HF_TOKEN, here and on the workers"
)


def ask(base: BaseSpec, revision: str, template: bool) -> tuple[str, BaseFacts]:
    """The commit of a branch or tag, and what the hub says of its model. `template`: the spec gives a chat template.

    Reads the list of files and a few small ones, no weights. A commit is taken as it is where the hub cannot be asked:
    it names its content, and workers that have it need no hub. Raises ModelError, SetupError and HubAwayError.
    """
    where = f"bases.{base.name}: {base.source} at {revision}"
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise SetupError(f"{where}: a hub id needs the package huggingface_hub", PACKAGE_FIX) from error
    try:
        info: Any = HfApi().model_info(base.source, revision=revision)
        with located(where):
            config = _check(base.source, info, template)
    except JsmError:
        raise
    except Exception as error:  # which HTTP library's errors come through depends on the package's version
        told = _told(where, error)
        if isinstance(told, HubAwayError) and COMMIT.fullmatch(revision):
            return revision, BaseFacts()
        raise told from error
    return info.sha, basefacts.of_hub(info).model_copy(update={"positions": basefacts.positions(config)})


def _check(repository: str, info: Any, template: bool) -> dict[str, Any]:
    """Its config.json. Raises ModelError for what could not be trained or exported, and what the hub raises."""
    present = {file.rfilename for file in info.siblings or []}

    def read(name: str) -> dict[str, Any]:
        from huggingface_hub import hf_hub_download

        return folder.read_json(Path(hf_hub_download(repository, name, revision=info.sha)))

    for name in (folder.CONFIG, folder.TOKENIZER):
        if name not in present:
            raise ModelDamagedError(f"it has no {name}", "Choose a repository with a whole model in safetensors")
    config = read(folder.CONFIG)
    folder.check_config(config)
    if folder.WEIGHTS not in present:
        if folder.INDEX not in present:
            raise folder.no_weights(present)
        folder.shards(read(folder.INDEX), present)
    configs = [name for name in (folder.TOKENIZER_CONFIG, folder.TEMPLATE_JSON) if name in present]
    if not (template or folder.TEMPLATE in present or any(folder.has_template(read(name)) for name in configs)):
        raise folder.no_template()
    return config


def _told(where: str, error: Exception) -> HubAwayError | HubRefusedError:
    """Does the hub refuse, or is it away? In words."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return HubAwayError(
            f"{where}: HF_HUB_OFFLINE is set, so {constants.ENDPOINT} is not asked which commit that is",
            "Unset HF_HUB_OFFLINE, give a commit as `revision`, or a local folder as `source`",
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    refused = isinstance(error, HfHubHTTPError) and (status is None or (status < 500 and status not in (408, 429)))
    if refused or isinstance(error, HFValidationError):
        return HubRefusedError(f"{where} cannot be had from the hub ({_first_line(error)})", REFUSED_FIX)
    return HubAwayError(f"{where}: the hub at {constants.ENDPOINT} does not answer ({_first_line(error)})")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
