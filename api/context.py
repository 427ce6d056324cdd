"""What every route may use: the store, the settings, the uploads, the hub's models and the coordinator's bell."""

import threading
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, cast

from fastapi import Depends, Request
from sqlalchemy import Engine

from api.hubcache import HubCache
from api.news import News
from jsm_queue import acl, tls
from jsm_queue.artifacts import Uploads
from jsm_queue.settings import Settings


@dataclass(frozen=True)
class Context:
    """One api process. `wake`: set it when the coordinator has something to look at. `news`: of what is desired of
    attempts, for the workers' long polls. `store_away`: set while the coordinator cannot use the store.
    """

    engine: Engine
    settings: Settings
    uploads: Uploads
    hub: HubCache
    wake: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)
    news: News = field(default_factory=News)
    store_away: threading.Event = field(default_factory=threading.Event)

    @property
    def artifacts(self) -> Path:
        """The folder of the artifacts."""
        return self.uploads.root

    @cached_property
    def users(self) -> acl.Users:
        """The broker's users."""
        return acl.Users(self.settings.broker_url or "", tls.read_ca(self.settings.broker_ca))

    def now(self) -> float:
        """Seconds since the epoch; leases are judged by this clock alone."""
        return time.time()


def context(request: Request) -> Context:
    """The Context of the app that serves this request."""
    return cast(Context, request.app.state.context)


Ctx = Annotated[Context, Depends(context)]
