"""The places in a block that a request may read: its hook points, and its attention heads where the engine has them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, cast

from trait_core.errors import InvalidRequestError
from trait_core.schema import HEAD_OUT, HookPoint, head_of, is_heads

from trait_service.engine.head_shape import HeadShape
from trait_service.engine.sites import missing
from trait_service.engine.spec import CapturePoint
from trait_service.engine_link.workers import Capture, Collected


@dataclass(frozen=True)
class Places:
    """Places that an engine can capture.

    Args:
        d_model: Width of the stream.
        hook_points: Hook points, `resid_post` among them.
        heads: The attention heads; None: the engine was started without them.
    """

    d_model: int
    hook_points: Sequence[HookPoint]
    heads: HeadShape | None

    @classmethod
    def of(cls, shape: Mapping[str, Any]) -> Self:
        """From the workers' `trait_info`."""
        heads = shape["heads"]
        return cls(shape["d_model"], shape["hook_points"], None if heads is None else HeadShape(**heads))

    def check(self, at: str) -> None:
        """Refuse a place that the engine does not have.

        Raises:
            InvalidRequestError: It does not have it, or has fewer heads.
        """
        if not is_heads(at):
            if at not in self.hook_points:
                raise InvalidRequestError(missing(at), param="at")
            return
        if self.heads is None:
            raise InvalidRequestError(missing(HEAD_OUT), param="at")
        head = head_of(at)
        if head is not None and head >= self.heads.n_heads:
            raise InvalidRequestError(
                f"{at} is out of range: the model has heads 0..{self.heads.n_heads - 1}", param="at"
            )

    def width(self, at: str) -> int:
        """Numbers of what is read at one position of one layer."""
        return self.heads.width(head_of(at)) if self.heads is not None and is_heads(at) else self.d_model

    def taken(self, collected: Collected, at: str) -> tuple[Collected, Capture | None]:
        """A request's results, without the rest of the rows that heads lie in; and its pools."""
        if self.heads is None or not is_heads(at):
            return collected, collected.capture
        head, capture, each = head_of(at), collected.capture, collected.each
        each = None if each is None else self.heads.take(each, head)
        capture = None if capture is None else replace(capture, mean=self.heads.take(capture.mean, head))
        return replace(collected, each=each), capture


def capture_point(at: str) -> CapturePoint:
    """The place as it travels to the worker, without the number of a head."""
    return cast("CapturePoint", HEAD_OUT if is_heads(at) else at)
