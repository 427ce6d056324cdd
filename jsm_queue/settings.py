"""Every setting, from `JSM_*` variables and `settings.toml` in the home folder."""

import os
import tomllib
from functools import lru_cache
from pathlib import Path

from pydantic import Field
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from jsm_queue.errors import SetupError


class Settings(BaseSettings):
    """Settings of api, coordinator, worker and CLI. Times in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="JSM_", extra="forbid")

    home: Path = Field(default=Path(".jsm"), description="everything a pool keeps: store, artifacts, logs, tokens")
    database_url: str | None = Field(default=None, description="SQLAlchemy URL; without one SQLite in the home folder")
    broker_url: str | None = Field(
        default=None, description="redis:// or rediss:// URL; without one the embedded Valkey"
    )
    api_url: str | None = Field(
        default=None, description="where the CLI and workers find the api; without one the home folder's own"
    )
    token: str | None = Field(default=None, description="the CLI's token; without one the home folder's own")
    host: str = Field(default="127.0.0.1", description="address that the api listens on; Flower listens on 127.0.0.1")
    api_port: int = Field(default=0, description="0: 8080 where it is free, else another")
    flower_port: int = Field(default=0, description="0: 5555 where it is free, else another")
    cpu_slots: int = Field(
        default=0,
        description="CPU slots of this machine's worker; 0: one beside a GPU, else one per core and 3 GiB, at most 4",
    )
    lease_s: float = Field(default=60.0, gt=0, description="until when a worker's session is believed alive")
    heartbeat_s: float = Field(default=15.0, gt=0, description="between two heartbeats without news")
    offer_s: float = Field(default=20.0, gt=0, description="until an unclaimed offer ends")
    tick_s: float = Field(default=1.0, gt=0, description="between two looks of the coordinator without news")

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
    """The settings of this process, read once. Raises SetupError when settings.toml is not TOML in UTF-8."""
    try:
        return Settings()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        fix = "Correct it there; docs/settings.md has every setting"
        raise SetupError(f"{toml_file()} is not TOML in UTF-8: {error}", fix) from error
