"""Every setting, from `JSM_*` variables and `settings.toml` in the home folder."""

import difflib
import os
import tomllib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from jsm_queue.errors import SetupError

HELP = "docs/settings.md has them all"

OTHER_VARIABLES = {
    "JSM_DEBUG": "not empty: an error of `jsm` says where in the code it came from",
    "JSM_INVITE": "the invite of a worker that joins; unlike arguments, other users of the machine cannot read it",
    "JSM_CACHE": "where the installer keeps what it compiled; without it the user's cache folder",
    "JSM_POSTGRES_PASSWORD": "of compose.yaml: the password of its Postgres",
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

    model_config = SettingsConfigDict(env_prefix="JSM_", extra="forbid")

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
    flower_port: int = _setting(0, "port", 5555, "0: 5555 where it is free, else another", ge=0, le=65535)
    cpu_slots: int = _setting(
        0,
        "slots",
        2,
        "CPU slots of this machine's worker; 0: one beside a GPU, else one per core and 3 GiB, at most 4",
    )
    lease_s: float = _setting(60.0, "seconds", 120, "until when a worker's session is believed alive", gt=0)
    heartbeat_s: float = _setting(15.0, "seconds", 30, "between two heartbeats without news", gt=0)
    offer_s: float = _setting(20.0, "seconds", 40, "until an unclaimed offer ends", gt=0)
    tick_s: float = _setting(1.0, "seconds", 5, "between two looks of the coordinator without news", gt=0)
    log_format: Literal["text", "json"] = _setting("text", "form", "json", "text for people, or one JSON object a line")
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "level", "warning", "what is logged: this and what is more serious"
    )

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


def toml_file() -> Path:
    """Where this process's settings.toml is, if there is one."""
    return Path(os.environ.get("JSM_HOME", ".jsm")) / "settings.toml"


@lru_cache
def settings() -> Settings:
    """The settings of this process, read once. Raises SetupError for a variable or a key that is wrong or unknown, and
    when settings.toml is not TOML in UTF-8.
    """
    _refuse_unknown(os.environ)
    try:
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
            found.append(f"JSM_{key.upper()}: {item['msg']}")
    return SetupError("; ".join(found), f"Correct the variable or settings.toml; {HELP}")
