"""`[precision.NAME]`: a service for each precision, one that runs already or one that the sweep starts."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from trait_client.sweeps.experiment.section import Label, Section
from trait_core.errors import InvalidRequestError
from trait_core.schema import ServiceInfo

LEAST_SHARE = 0.25
"""Of the bytes of the loaded weights: embeddings and scales stay in a wider type, and are half of a small model."""


class PrecisionService(Section):
    """Where one precision is served.

    Attributes:
        url: A service that runs already.
        model: In place of `url`: what `trait-service serve` takes. It is started, swept and stopped again. A path that
            begins with a dot is relative to the experiment's file.
        dtype: Of `serve`.
        serve: Further options of `serve`, as on a command line.
        vectors: Folder of the started service's registry, relative to the experiment's file; None is the usual one.
        weights: Type that at least a quarter of the loaded weights' bytes must have, as `GET /v1/steering` tells it:
            `float32`, `bfloat16`, `int8`, `float8_e4m3fn`; INT4 comes packed in `int32`. None checks nothing.
    """

    url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    model: Label | None = None
    dtype: Label | None = None
    serve: list[str] = Field(default_factory=list)
    vectors: Label | None = None
    weights: Label | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.url is None) == (self.model is None):
            raise ValueError("give url, of a service that runs, or model, which is started")
        if self.url is not None and (self.dtype or self.serve or self.vectors):
            raise ValueError("dtype, serve and vectors go with model: a service that runs has its own")
        return self

    def serve_arguments(self, folder: Path) -> list[str]:
        """What follows `trait-service serve`; paths are relative to `folder`.

        Raises:
            ValueError: It is not started here.
        """
        if self.model is None:
            raise ValueError(f"{self.url} runs already")
        arguments = [str(folder / self.model) if self.model.startswith(".") else self.model]
        if self.dtype is not None:
            arguments += ["--dtype", self.dtype]
        if self.vectors is not None:
            arguments += ["--vectors", str(folder / self.vectors)]
        return [*arguments, *self.serve]

    def check_weights(self, name: str, info: ServiceInfo) -> None:
        """See that the loaded weights are of the type that they are said to be of.

        Raises:
            InvalidRequestError: They are not, or the service does not tell.
        """
        if self.weights is None or info.weights.get(self.weights, 0.0) >= LEAST_SHARE:
            return
        found = (
            ", ".join(f"{dtype} {share:.0%}" for dtype, share in info.weights.items()) or "types that it does not tell"
        )
        raise InvalidRequestError(
            f"[precision.{name}] should have weights of {self.weights}, at least {LEAST_SHARE:.0%} of their bytes; "
            f"{info.model} has loaded {found}",
            param=f"precision.{name}.weights",
        )
