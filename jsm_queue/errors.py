"""Every error a user can meet. One base class, which carries what to do about it and how it is answered."""


class JsmError(Exception):
    """An error with a message for people.

    `message` says what is wrong and where; `fix` says what to do. `code` is the stable word used in the api's JSON,
    `status` its HTTP status and `exit_code` that of the CLI.
    """

    code = "error"
    status = 400
    exit_code = 1

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}. {self.fix}" if self.fix else self.message


class SpecError(JsmError):
    """The study's YAML file is not valid."""

    code = "spec"
    status = 422
    exit_code = 2


class DataError(JsmError):
    """A corpus, dataset or bench file is not usable."""

    code = "data"
    status = 422
    exit_code = 2


class ModelError(JsmError):
    """A base model, adapter or GGUF file is not usable."""

    code = "model"
    status = 422
    exit_code = 2


class NotFoundError(JsmError):
    """No study, job or artifact of that name."""

    code = "not_found"
    status = 404
    exit_code = 4


class AuthError(JsmError):
    """The token is missing, unknown or of another scope."""

    code = "auth"
    status = 401
    exit_code = 5


class ConflictError(JsmError):
    """The write comes from a replaced attempt, or the thing is in another state by now."""

    code = "conflict"
    status = 409
    exit_code = 6


class GoneError(JsmError):
    """This worker session was superseded by a newer one."""

    code = "gone"
    status = 410
    exit_code = 6


class SetupError(JsmError):
    """Something this machine needs is missing: a compiler, a port, a running api."""

    code = "setup"
    status = 503
    exit_code = 3
