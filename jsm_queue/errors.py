"""Every error a user can meet. One base class, which carries what to do about it and how it is answered.

A class is a situation: its docstring is the cause, `cure` what helps in general. `docs/errors.md` is made of them.
Each raise says what is wrong where, and what to do there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class JsmError(Exception):
    """Something went wrong that has no name of its own; the message says what.

    `message` says what is wrong and where; `fix` says what to do, without one `cure` does. `code` is the stable word
    used in the api's JSON, `status` its HTTP status and `exit_code` that of the CLI.
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 400
    exit_code: ClassVar[int] = 1
    cure: ClassVar[str] = ""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix or self.cure

    def __str__(self) -> str:
        return f"{self.message}. {self.fix}" if self.fix else self.message


# What a user wrote: the spec, the data, the model


class SpecError(JsmError):
    """A study has an unknown key, a wrong value, or options that contradict each other."""

    code = "spec"
    status = 422
    exit_code = 2
    cure = "Correct the keys that the message names; docs/settings.md lists them all"


class SpecFileError(SpecError):
    """The study's file cannot be read, or it is not YAML, or it says a key twice."""

    code = "spec_file"
    cure = "Correct the file at the line that the message names; `jsm init` writes a commented example"


class DataError(JsmError):
    """A corpus, dataset or bench file is not usable."""

    code = "data"
    status = 422
    exit_code = 2
    cure = "Correct the file at the place that the message names"


class ModelError(JsmError):
    """A base model, adapter or GGUF file is not usable."""

    code = "model"
    status = 422
    exit_code = 2
    cure = "Choose another base model, or another revision of it"


class ModelMissingError(ModelError):
    """There is no folder, file or installed package where a base model is said to be."""

    code = "model_missing"
    cure = "Correct the base's `source`; it is relative to the spec's folder"


class ModelDamagedError(ModelError):
    """A model's files are damaged or not complete: cut off, missing, of another revision, or no valid JSON."""

    code = "model_damaged"
    cure = "Get the model's files again, all from one revision"


class ModelUnsafeError(ModelError):
    """A model could run code: its weights are pickled, or it needs Python code of its own."""

    code = "model_unsafe"
    cure = "Choose a revision with safetensors and an architecture that transformers knows"


class ModelUnsupportedError(ModelError):
    """A model is whole, but training or the GGUF export do not cover its kind."""

    code = "model_unsupported"
    cure = "Choose a Llama, Mistral, Qwen2 or Qwen3 model in its original precision"


class ChatTemplateError(ModelError):
    """A base model has no chat template, or its template does not render."""

    code = "chat_template"
    cure = "Set `chat_template` of this base in the spec: a Jinja file, or a built-in one (plain-ja, chatml)"


class HubRefusedError(ModelError):
    """The hub has no such model or revision, or does not give it to you: it is gated or private."""

    code = "hub_refused"
    cure = "Check id and revision; a gated model wants its licence accepted, and HF_TOKEN"


# What was asked of the api


class RequestError(JsmError):
    """A request to the api is not valid: no JSON, a value out of range, a character that no text has."""

    code = "invalid"
    status = 422
    exit_code = 2
    cure = "See /docs of the api"


class TooLargeError(RequestError):
    """A request to the api is larger than it takes."""

    code = "too_large"
    status = 413
    cure = "Send less at once; files go through /v1/artifacts in pieces"


class MethodError(RequestError):
    """The api has this path, but not this method on it."""

    code = "method"
    status = 405


class RangeError(RequestError):
    """A file was asked for from a byte on that it does not have."""

    code = "range"
    status = 416
    cure = "Ask for less, or for the whole file without a Range"


class DisconnectedError(RequestError):
    """A request broke off before all of it had come."""

    code = "disconnected"
    status = 400
    cure = "Send it again"


class NotFoundError(JsmError):
    """There is no study, job, artifact or path of that name."""

    code = "not_found"
    status = 404
    exit_code = 4
    cure = "`jsm status` lists the studies, `jsm jobs STUDY` their jobs"


class AuthError(JsmError):
    """The token is missing, unknown or of another scope."""

    code = "auth"
    status = 401
    exit_code = 5
    cure = "Use the token in the home folder's admin.token, or set JSM_TOKEN"


class ForbiddenError(JsmError):
    """The token is valid, but not for this: its scope is too small, or the worker holds no attempt that needs it."""

    code = "forbidden"
    status = 403
    exit_code = 5
    cure = "Use a token of the scope that the message names: `jsm token create --scope SCOPE --name NAME` makes one"


class ConflictError(JsmError):
    """The write comes from a replaced attempt, or the thing is in another state by now."""

    code = "conflict"
    status = 409
    exit_code = 6
    cure = "Look at its state now; a worker drops such an attempt by itself"


class StoreAwayError(JsmError):
    """The api cannot read or write its store now: the database is away, or the disk that holds it is full."""

    code = "store_away"
    status = 503
    exit_code = 3
    cure = "Start the database, or make room on its disk; workers and `jsm` try again by themselves meanwhile"


class EpochError(JsmError):
    """The store was restored from a backup: the sessions of its workers ended with the old one."""

    code = "epoch"
    status = 410
    exit_code = 6
    cure = "Say hello again; a worker does so by itself"


class GoneError(JsmError):
    """This worker session was superseded by a newer one."""

    code = "gone"
    status = 410
    exit_code = 6
    cure = "Start each worker only once"


# What is missing around us


class SetupError(JsmError):
    """Something this machine needs is missing: a compiler, a port, a running api."""

    code = "setup"
    status = 503
    exit_code = 3
    cure = "Do what the message says, then try again"


class DeafError(SetupError):
    """A worker's queue gave it no message for a while, though there were some and the queue answers."""

    code = "deaf"
    cure = "It starts anew by itself"


class HubAwayError(SetupError):
    """The model hub does not answer, or HF_HUB_OFFLINE forbids to ask it."""

    code = "hub_away"
    cure = "Check the network, or give a commit as `revision` or a local folder as `source`"


class InternalError(SetupError):
    """The api failed on a request: a bug."""

    code = "internal"
    status = 500
    cure = "See the api's log, and report it"


def all_errors() -> list[type[JsmError]]:
    """Every class of error, in the order of this file, subclasses after their base."""

    def below(kind: type[JsmError]) -> Iterator[type[JsmError]]:
        yield kind
        for each in kind.__subclasses__():
            yield from below(each)

    return list(below(JsmError))


def of_code(code: str, default: type[JsmError]) -> type[JsmError]:
    """The class with that code; `default` for a word that this version does not know."""
    return {kind.code: kind for kind in all_errors()}.get(code, default)


@contextmanager
def located(where: str) -> Iterator[None]:
    """Puts `where: ` before the message of an error that passes, and keeps its class and fix."""
    try:
        yield
    except JsmError as error:
        raise type(error)(f"{where}: {error.message}", error.fix) from error
