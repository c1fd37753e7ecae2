class TraitError(Exception):
    """Base of every error of trait-steering.

    The tree::

        TraitError
        ├── InvalidRequestError     the caller's value is wrong: value, allowed range, what to do (HTTP 400)
        │   └── UnknownVectorError  no vector of that name or hash (HTTP 404 on the registry, else 400)
        ├── VectorFileError         a vector file is malformed or made for another model
        ├── DatasetError            a dataset file is malformed; the message names file and line
        ├── ServiceError            the service answered with an error, or not at all
        │   └── ServiceUnreachableError
        └── SteeringFailedError     the engine could not steer as asked; the request has no text
    """


class InvalidRequestError(TraitError):
    """A value of the request is outside its range.

    Args:
        message: Names the value, the allowed range and what to do.
        param: The offending field, for example `steering.terms[0].layers`.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class UnknownVectorError(InvalidRequestError):
    """No vector of that name or hash is registered."""


class VectorFileError(TraitError):
    """A vector file is malformed, or was made for another model."""


class DatasetError(TraitError):
    """A dataset file is malformed; the message names file and line."""


class ServiceError(TraitError):
    """The service answered with an error.

    Args:
        message: The service's own message.
        status: The HTTP status.
        param: The offending request field, where the service named one.
    """

    def __init__(self, message: str, status: int | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param


class ServiceUnreachableError(ServiceError):
    """No service answers at the address."""


class SteeringFailedError(TraitError):
    """The engine could not steer as asked: the request fails, no text is served."""
