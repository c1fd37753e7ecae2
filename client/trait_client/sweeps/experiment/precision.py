"""`[precision.NAME]`: a service for each precision, either running already or started by the sweep."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from trait_client.sweeps.experiment.section import Label, Section
from trait_core.errors import InvalidRequestError
from trait_core.schema import ServiceInfo

LEAST_SHARE = 0.2
"""Smallest share of the loaded weights' bytes. Embeddings and scales stay in a wider type: half of a small model."""


class PrecisionService(Section):
    """Service of one precision.

    Attributes:
        url: Address of a running service.
        model: In place of `url`: a model for `trait-service serve`. The sweep starts the service and stops it. A path
            that begins with a dot is relative to the experiment's file.
        dtype: Option `--dtype` of `serve`.
        serve: Other options of `serve`, as on a command line.
        vectors: Registry folder of the started service, relative to the experiment's file; None is the default one.
        weights: Type that at least a fifth of the loaded weights' bytes must have, as `GET /v1/steering` reports it:
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
            raise ValueError("give url, for a running service, or model, to start one")
        if self.url is not None and (self.dtype or self.serve or self.vectors):
            raise ValueError("dtype, serve and vectors go with model: a running service has its own")
        return self

    def serve_arguments(self, folder: Path) -> list[str]:
        """Arguments of `trait-service serve`; paths are relative to `folder`.

        Raises:
            ValueError: The service is not started by the sweep.
        """
        if self.model is None:
            raise ValueError(f"{self.url} is running already")
        arguments = [str(folder / self.model) if self.model.startswith(".") else self.model]
        if self.dtype is not None:
            arguments += ["--dtype", self.dtype]
        if self.vectors is not None:
            arguments += ["--vectors", str(folder / self.vectors)]
        return [*arguments, *self.serve]

    def check_weights(self, name: str, info: ServiceInfo) -> None:
        """Check that the loaded weights have the type that the experiment states.

        Raises:
            InvalidRequestError: They do not, or the service does not report it.
        """
        if self.weights is None or info.weights.get(self.weights, 0.0) >= LEAST_SHARE:
            return
        found = (
            ", ".join(f"{dtype} {share:.0%}" for dtype, share in info.weights.items())
            or "types that it does not report"
        )
        raise InvalidRequestError(
            f"[precision.{name}] should have weights of {self.weights}, at least {LEAST_SHARE:.0%} of their bytes; "
            f"{info.model} has loaded {found}",
            param=f"precision.{name}.weights",
        )
