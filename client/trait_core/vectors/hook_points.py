"""Refuses vectors whose place in a block a command does not read."""

from trait_core.errors import InvalidRequestError
from trait_core.schema import RESID_POST, VectorMetadata


def require_stream(name: str, metadata: VectorMetadata, what: str) -> None:
    """Refuse a vector that is not for the stream behind a block.

    Args:
        name: The vector's name, for the message.
        metadata: Its metadata.
        what: The command that reads the stream, for the message.

    Raises:
        InvalidRequestError: It is for what attention or MLP adds.
    """
    if metadata.hook_point != RESID_POST:
        raise InvalidRequestError(
            f"the vector {name!r} is for {metadata.hook_point}, and {what} reads replies at {RESID_POST} only: use a vector that was "
            "extracted there; `trait-client steer` takes both",
            param="vector",
        )
