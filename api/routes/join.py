"""How a machine joins: where the api is, the scripts that install a worker, and what they install.

The scripts are the same for everybody and hold no secret. The wheel and the constraints need an invite or a worker's
token.
"""

from pathlib import Path

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import PlainTextResponse

from api import files, wheel
from api.auth import JOINING
from api.context import Ctx
from jsm_queue import tls
from jsm_queue.protocol import Place

SCRIPTS = Path(wheel.__file__).parent / "join"

router = APIRouter(tags=["joining"])
scripts = APIRouter(tags=["joining"])


@router.get("/join")
def place(ctx: Ctx) -> Place:
    """Where this api is and by what it is known. Needs no token: a machine asks before it says anything."""
    settings = ctx.settings
    if settings.tls_cert is None:
        return Place(version=wheel.version(), api_url=settings.public_url)
    marks, own = tls.marks(settings.tls_cert), settings.home / "tls" / "ca.pem"
    file = settings.ca or (own if tls.is_issued_by(settings.tls_cert, own) else None)
    ca = tls.read_ca(file)
    return Place(version=wheel.version(), api_url=settings.public_url, ca=ca, **marks._asdict())


@router.get("/join/wheel", dependencies=[Depends(JOINING)])
def download_wheel(ctx: Ctx, request: Request) -> Response:
    """This version of jsm-queue."""
    file = wheel.wheel(ctx.settings.home)
    return files.ranged(request, file, "application/octet-stream", file.name)


@router.get("/join/constraints", dependencies=[Depends(JOINING)])
def download_constraints() -> PlainTextResponse:
    """The versions that it was tested with."""
    return PlainTextResponse(wheel.constraints())


@scripts.get("/join.sh")
def script_for_sh() -> PlainTextResponse:
    """Installs a worker on Linux and macOS. Needs no token."""
    return PlainTextResponse((SCRIPTS / "join.sh").read_text(encoding="utf-8"))


@scripts.get("/join.ps1")
def script_for_powershell() -> PlainTextResponse:
    """Installs a worker on Windows. Needs no token."""
    return PlainTextResponse((SCRIPTS / "join.ps1").read_text(encoding="utf-8"))
