"""The errors of trait-steering, and the sentence made of a refused pydantic model."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

MAX_WHERE = 80
MAX_SHOWN = 120

_UNION_BRANCH = re.compile(r"[\[\](){}]|^constrained-|^(?:str|int|float|bool|PositionScope)$")
"""pydantic puts the tried branch of a union into an error's location: `literal['all']`, `PositionScope`."""


class TraitError(Exception):
    """Base of every error of trait-steering.

    The errors that a caller of the client can meet::

        TraitError
        ├── InvalidRequestError     a value is wrong; gives the value, the allowed range and what to do (HTTP 400)
        │   ├── UnknownVectorError  no vector has that name or hash (HTTP 404 in the registry, else 400)
        │   └── ChatTemplateError   the model has no chat template, or its template refuses the messages
        ├── VectorFileError         a vector file is malformed or was made for another model
        ├── DatasetError            a dataset file is malformed; names file and line
        ├── ServiceError            the service answered with an error, or not at all
        │   └── ServiceUnreachableError
        ├── SteeringFailedError     the engine could not steer as requested; the request has no text
        ├── ResultsError            a result database is missing, unreadable or locked (trait_client.results)
        │   └── ResultsMissingError
        ├── PortError               a server cannot listen on its address
        ├── UnsupportedPlatformError  this platform lacks what a command needs
        └── JudgeError              the judge gave no score (trait_client.judge)
            ├── JudgeEndpointError  no usable answer
            ├── JudgeAnswerError    the answer holds no number of the scale
            └── JudgeBudgetError    the allowed calls or tokens are used up

    The service and the extraction package define further ones where they raise them.
    """


class InvalidRequestError(TraitError):
    """A value is outside its range.

    Args:
        message: Names the value, the allowed range and what to do.
        param: The offending field, for example `steering.terms[0].layers`.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class UnknownVectorError(InvalidRequestError):
    """No vector with that name or hash is registered."""


class ChatTemplateError(InvalidRequestError):
    """Messages cannot be sent to the model: it has no chat template, or the template refuses them or a variable."""


class VectorFileError(TraitError):
    """A vector file is malformed, or was made for another model."""


class DatasetError(TraitError):
    """A dataset file is malformed; the message names file and line."""


class ServiceError(TraitError):
    """The service answered with an error.

    Args:
        message: The service's own message.
        status: The HTTP status.
        param: The offending request field, if the service named one.
    """

    def __init__(self, message: str, status: int | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param


class ServiceUnreachableError(ServiceError):
    """The address cannot be reached, or the connection broke off."""


class SteeringFailedError(TraitError):
    """The engine could not steer as requested: the request fails and returns no text."""


class Refusal(Protocol):
    """pydantic's `ValidationError`, or FastAPI's `RequestValidationError`."""

    def errors(self) -> Sequence[Any]:
        """One dictionary per error: `type`, `loc`, `msg`, `input`."""
        ...


@dataclass(frozen=True)
class Fault:
    """The first error of a refused value; `str()` gives `where: reason`.

    Attributes:
        where: Dotted path of the field; empty if the value as a whole is wrong and has no name.
        reason: The rule that the value breaks.
        kind: pydantic's type of the error, for example `extra_forbidden`.
        loc: pydantic's location.
        value: The refused value; None if it is missing or hidden.
        hidden: The value is missing, or must not be shown.
    """

    where: str
    reason: str
    kind: str
    loc: tuple[int | str, ...]
    value: Any
    hidden: bool

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" if self.where else self.reason

    def with_value(self) -> str:
        """The same sentence, followed by the value, cut to 120 characters."""
        if self.hidden:
            return str(self)
        shown = repr(self.value)
        return f"{self} (got {shown if len(shown) <= MAX_SHOWN else shown[: MAX_SHOWN - 3] + '...'})"


def first_fault(error: Refusal, *, whole: str = "", within: str = "", hide: Collection[str] = ()) -> Fault:
    """Make one sentence of a validation error: the first wrong field, and everything that it may be instead.

    Args:
        error: The validation error.
        whole: Name of the value as a whole, for an error that belongs to no field.
        within: Path of the model inside a larger value; it is put before the field.
        hide: Fields of the model whose values must not be shown, because they may be secrets.
    """
    details = error.errors()
    first = _path(details[0])
    # A union's branches report the same field; the branch that got furthest is the one that was meant.
    same = [detail for detail in details if _path(detail)[: len(first)] == first]
    deepest = max((_path(detail) for detail in same), key=len)
    meant = [detail for detail in same if _path(detail) == deepest]
    loc = tuple(meant[0]["loc"])
    hidden = meant[0]["type"] == "missing" or "input" not in meant[0] or any(part in hide for part in deepest[:1])
    return Fault(
        where=".".join(part for part in (within, *deepest) if part)[:MAX_WHERE] or whole,
        reason=" or ".join(dict.fromkeys(detail["msg"].removeprefix("Value error, ") for detail in meant)),
        kind=meant[0]["type"],
        loc=loc,
        value=None if hidden else meant[0]["input"],
        hidden=hidden,
    )


def is_union_branch(part: int | str) -> bool:
    """Tell whether a part of pydantic's location names a branch of a union instead of a field."""
    return isinstance(part, str) and _UNION_BRANCH.search(part) is not None


def _path(detail: Any) -> tuple[str, ...]:
    loc = tuple(detail["loc"])
    unknown = detail["type"] == "extra_forbidden"  # its last part is the caller's own text
    kept = [part for i, part in enumerate(loc) if (unknown and i == len(loc) - 1) or not is_union_branch(part)]
    return tuple(str(part) for part in kept)
