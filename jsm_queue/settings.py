"""Every setting, from `JSM_*` variables and `settings.toml` in the home folder."""

import difflib
import math
import os
import tomllib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from jsm_queue import hours
from jsm_queue.errors import SetupError

HELP = "docs/settings.md has them all"

OTHER_VARIABLES = {
    "JSM_DEBUG": "not empty: an error of `jsm` says where in the code it came from",
    "JSM_INVITE": "the invite of a worker that joins; unlike arguments, other users of the machine cannot read it",
    "JSM_CACHE": "where the installer keeps what it compiled; without it the user's cache folder",
    "JSM_POSTGRES_PASSWORD": "of compose.yaml: the password of its Postgres",
    "JSM_WORKER_DIR": "of the join script on Windows: the folder that the worker is installed into",
    "JSM_WORKER_NAME": "of the join script on Windows: what people call that machine",
    "JSM_TORCH_INDEX": "of the join script on Windows: a package index with the right build of torch",
    "JSM_NO_LLAMA": "of the join script on Windows: not empty: llama.cpp is not compiled",
    "JSM_NO_START": "of the join script on Windows: not empty: the worker is installed and not started",
    "JSM_JUDGE_…": "a judge's key, under the name that a study's `judge.key_env` tells; set it where workers start",
    "JSM_LIFELINE": "set by a process for those that it starts",
    "JSM_CRASH_AT": "of the tests: where a process kills itself",
    "JSM_CRASH_ONCE": "of the tests: the folder that remembers who did",
}
"""The variables that are no settings. One that ends in … stands for all that begin so."""


def _setting(default: Any, unit: str, example: Any, description: str, **limits: Any) -> Any:
    return Field(
        default=default,
        description=description,
        examples=[example],
        json_schema_extra={"unit": unit},
        **limits,
    )


class Settings(BaseSettings):
    """Settings of api, coordinator, worker and CLI. Times in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="JSM_", env_ignore_empty=True, extra="forbid", allow_inf_nan=False)

    home: Path = _setting(Path(".jsm"), "folder", "/srv/jsm", "everything a pool keeps: store, artifacts, logs, tokens")
    database_url: str | None = _setting(
        None,
        "SQLAlchemy URL",
        "postgresql+psycopg://jsm:PASSWORD@db/jsm",
        "where the store is; without one SQLite in the home folder",
    )
    broker_url: str | None = _setting(
        None,
        "URL",
        "rediss://:PASSWORD@queue.example.org:6379/0",
        "redis:// or rediss://; without one the embedded Valkey. Beyond this machine only with TLS (rediss)",
    )
    broker_public_url: str | None = _setting(
        None,
        "URL",
        "rediss://192.168.0.5:6380/0",
        "where workers find the queue, if not where the api does; `jsm up --lan` sets it",
    )
    broker_ca: Path | None = _setting(
        None,
        "PEM file",
        "/etc/redis/ca.pem",
        "the authority by which a rediss:// queue is known; without one the system's",
    )
    api_url: str | None = _setting(
        None,
        "URL",
        "http://192.168.0.5:8080",
        "where the CLI and workers find the api; without one the home folder's own",
    )
    token: str | None = _setting(
        None, "token", "the text of admin.token", "the CLI's token; without one the home folder's own"
    )
    host: str = _setting(
        "127.0.0.1", "address", "0.0.0.0", "address that the api listens on; Flower listens on 127.0.0.1"
    )
    api_port: int = _setting(0, "port", 8080, "0: 8080 where it is free, else another", ge=0, le=65535)
    public_url: str | None = _setting(
        None,
        "URL",
        "https://192.168.0.5:8080",
        "where other machines find the api; `jsm up --lan` sets it",
    )
    tls_cert: Path | None = _setting(
        None, "PEM file", "/srv/jsm/tls/server.pem", "the certificate that the api shows; with it it speaks TLS only"
    )
    tls_key: Path | None = _setting(None, "PEM file", "/srv/jsm/tls/server.key", "the key of JSM_TLS_CERT")
    ca: Path | None = _setting(
        None,
        "PEM file",
        "/srv/jsm/tls/ca.pem",
        "the authority by which the api is known; without one tls/ca.pem of the home folder, else the system's",
    )
    broker_port: int = _setting(
        0, "port", 6380, "where `jsm up --lan` lets workers reach the queue; 0: 6380 where it is free", ge=0, le=65535
    )
    flower_port: int = _setting(0, "port", 5555, "0: 5555 where it is free, else another", ge=0, le=65535)
    cpu_slots: int = _setting(
        0,
        "slots",
        2,
        "CPU slots of this machine's worker; 0: one beside a GPU, else one per core and 3 GiB, at most 4",
        ge=0,
        le=48,  # with the GPUs' slots at most 64: see protocol.Slots
    )
    courtesy: bool = _setting(
        True,
        "yes or no",
        False,
        "whether this machine's worker gives way to its owner; no: on a machine that works for the pool alone",
    )
    courtesy_programs: str = _setting(
        "",
        "names",
        "EldenRing.exe, blender",
        "programs, parted by commas, during which the worker gives the machine back; case and .exe do not matter",
    )
    courtesy_hours: Annotated[str, AfterValidator(hours.check)] = _setting(
        "", "hours", "mon-fri 22:00-08:00; sat,sun 00:00-24:00", "when the worker may work, local time; empty: always"
    )
    courtesy_user_active: Literal["ignore", "pause", "release"] = _setting(
        "ignore", "level", "pause", "what the worker does while somebody uses keyboard or mouse"
    )
    courtesy_away_s: float = _setting(
        300.0, "seconds", 900, "without a key or mouse movement until the user counts as away", ge=0
    )
    courtesy_quiet_s: float = _setting(
        60.0, "seconds", 300, "that a reason to give way must be gone before the worker comes back", ge=0
    )
    courtesy_vram_bytes: int = _setting(
        500_000_000, "bytes", 2_000_000_000, "of VRAM from which on another program's use of a GPU counts", ge=0
    )
    courtesy_hot: int = _setting(90, "°C", 80, "from here on a GPU pauses; 0: never", ge=0, le=120)
    lease_s: float = _setting(60.0, "seconds", 120, "until when a worker's session is believed alive", gt=0)
    heartbeat_s: float = _setting(
        15.0,
        "seconds",
        30,
        "between two heartbeats without news; half of JSM_LEASE_S at most, as one may be missed",
        gt=0,
        validate_default=True,
    )
    offer_s: float = _setting(20.0, "seconds", 40, "until an unclaimed offer ends", gt=0)
    tick_s: float = _setting(1.0, "seconds", 5, "between two looks of the coordinator without news", gt=0)
    attempt_bytes: int = _setting(
        64 * 2**30,
        "bytes",
        128 * 2**30,
        "what a worker may send an attempt before a result names it; the largest GGUF and two checkpoints must fit",
        gt=0,
    )
    attempt_files: int = _setting(256, "files", 1024, "how many files that may be", gt=0)
    cache_bytes: int = _setting(
        0, "bytes", 200 * 2**30, "what a worker's cache may take; 0: half of the space that it could have", ge=0
    )
    hub: Literal["api", "direct"] = _setting(
        "api",
        "way",
        "direct",
        "where a worker gets base models of the hub: through the api, which fetches each once for all workers and "
        "keeps it, or directly, with the worker's own HF_TOKEN",
    )
    hub_cache_bytes: int = _setting(
        0,
        "bytes",
        300 * 2**30,
        "what the api keeps of the hub's base models; 0: half of the space that it could have",
        ge=0,
    )
    log_format: Literal["text", "json"] = _setting("text", "form", "json", "text for people, or one JSON object a line")
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "level", "warning", "what is logged: this and what is more serious"
    )

    @field_validator("heartbeat_s")
    @classmethod
    def _beats_twice_a_lease(cls, beat_s: float, others: ValidationInfo) -> float:
        lease_s = others.data.get("lease_s", math.inf)
        if 2 * beat_s > lease_s:
            raise ValueError(f"{beat_s:g} s are more than half of JSM_LEASE_S, {lease_s:g} s: set both")
        return beat_s

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Variables win over the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=toml_file())

    @property
    def store_url(self) -> str:
        """The database's SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{(self.home / 'store.sqlite').resolve().as_posix()}"

    @property
    def ca_file(self) -> Path | None:
        """The authority by which clients know the api, if it is not one of the system's."""
        own = self.home / "tls" / "ca.pem"
        return self.ca or (own if own.exists() else None)


def toml_file() -> Path:
    """Where this process's settings.toml is, if there is one."""
    return Path(os.environ.get("JSM_HOME") or ".jsm") / "settings.toml"


@lru_cache
def settings() -> Settings:
    """The settings of this process, read once. Raises SetupError for a variable or a key that is wrong or unknown, and
    when settings.toml is not TOML in UTF-8.
    """
    _refuse_unknown(os.environ)
    try:
        _refuse_file()
        return Settings()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"{toml_file()} is not TOML in UTF-8: {error}", f"Correct it there; {HELP}") from error
    except ValidationError as error:
        raise _wrong(error) from error


def _refuse_unknown(variables: Iterable[str]) -> None:
    known = {f"JSM_{name.upper()}" for name in Settings.model_fields} | set(OTHER_VARIABLES)
    begun = tuple(name.removesuffix("…") for name in known if name.endswith("…"))
    ours = [name for name in variables if name.upper().startswith("JSM_")]
    unknown = [name for name in ours if name.upper() not in known and not name.upper().startswith(begun)]
    if unknown:
        raise SetupError(
            f"{unknown[0]} is no setting{_guess(unknown[0].upper(), known)}", f"Correct or unset it; {HELP}"
        )


def _refuse_file() -> None:
    """One that is none, or that says where the home folder is, in which it lies."""
    path = toml_file()
    if os.path.lexists(path) and not path.is_file():
        raise SetupError(f"{path} is no file", "Correct or remove it")
    if path.is_file() and "home" in tomllib.loads(path.read_text(encoding="utf-8")):
        raise SetupError(f"{path}: home is without effect there", f"Set JSM_HOME, by which the file is found; {HELP}")


def _guess(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; is {near[0]} meant?" if near else ""


def _wrong(error: ValidationError) -> SetupError:
    found = []
    for item in error.errors():
        key = "_".join(map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            found.append(f"{toml_file()}: {key} is no setting{_guess(key, Settings.model_fields)}")
        else:
            found.append(f"JSM_{key.upper()}: {item['msg'].removeprefix('Value error, ')}")
    return SetupError("; ".join(found), f"Correct the variable or settings.toml; {HELP}")
