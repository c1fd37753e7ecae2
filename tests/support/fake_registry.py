"""The fake service's model and vectors, and the requests that it refuses because of them."""

import json
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError
from trait_core.errors import InvalidRequestError, UnknownVectorError
from trait_core.schema import (
    AppliedGate,
    AppliedTerm,
    ErrorBody,
    ErrorDetail,
    Gate,
    LayerLens,
    LensToken,
    ServiceInfo,
    SteeringLimits,
    SteeringTerm,
    VectorInfo,
    VectorLens,
    VectorPointer,
    VectorUpload,
    VectorVersion,
    is_name,
)
from trait_core.storage import sha256_of
from trait_core.units import UNITLESS, relative_dose, residual_units
from trait_core.vectors.controls import controls_of, is_control
from trait_core.vectors.file import VectorFile
from trait_core.vectors.transfer import is_of_another_model

VECTORS = "/v1/vectors"
LIMITS = {
    "max_terms": 32, "max_relative_dose": 2.0, "max_layers_per_term": 32, "terms_per_layer": 8, "bank_rows": 64,
    "max_num_seqs": 4, "max_activation_inputs": 8, "max_positions": 8, "max_lens_readings": 16,
}  # fmt: skip
INFO: dict[str, Any] = {
    "model": "m", "config_digest": "c", "weights_digest": "w", "checkpoint_digest": "w", "chat_template_digest": "t",
    "chat_template_variables": [],
    "n_layers": 4, "d_model": 8, "dtype": "float32", "quantization": None, "weights": {"float32": 1.0},
    "operations": ["add", "ablate", "set", "scale", "floor", "ceiling", "replace", "rotate"], "versions": {"service": "1"},
    "scopes": ["all", "prompt", "generated", "last_prompt", "positions"], "units": ["dose", "separation", "raw"], "holds": ["token", "latch", "prompt"],
}  # fmt: skip

M = TypeVar("M", bound=BaseModel)


class UnknownModelError(InvalidRequestError):
    """The model that a request names is not served."""


def service_info(**changes: Any) -> ServiceInfo:
    """A `GET /v1/steering` answer; `limits` may name some of the limits only."""
    fields = INFO | changes
    fields["limits"] = SteeringLimits(**LIMITS | fields.get("limits", {}))
    return ServiceInfo(**{"residual_norms": [20.0] * fields["n_layers"], **fields})


def refusal(status: int, message: str, param: str | None = None) -> httpx.Response:
    """An error as the service words it."""
    kind = {404: "NotFoundError", 400: "BadRequestError"}.get(status, "InternalServerError")
    error = ErrorBody(error=ErrorDetail(message=message, type=kind, param=param, code=status))
    return httpx.Response(status, json=error.model_dump())


class FakeRegistry:
    """A model, and vectors for it.

    Args:
        vectors: Registered under the names of their traits.
        info: Fields of `ServiceInfo` that differ from `INFO`.

    Attributes:
        files: Name -> bytes of the registered vector files.
    """

    def __init__(self, *vectors: VectorFile, **info: Any) -> None:
        self.info = service_info(**info)
        self.files = {file.metadata.trait: file.to_bytes() for file in vectors}
        self.revision = len(self.files)

    def entry(self, name: str) -> VectorInfo:
        """A registered vector as the registry lists it."""
        sha256 = sha256_of(self.files[name])
        versions = [VectorVersion(version=1, sha256=sha256, registered="2026-01-01T00:00:00+00:00")]
        metadata = VectorFile.from_bytes(self.files[name]).metadata
        return VectorInfo(name=name, sha256=sha256, versions=versions, metadata=metadata)

    def listed(self, *, controls: bool = False) -> dict[str, bytes]:
        """The files that a list shows: controls only where they are asked for."""
        return {name: data for name, data in self.files.items() if controls or not is_control(name)}

    def named(self, reference: str, param: str = "vector") -> str:
        """The registered name of a vector that is given by name or sha256."""
        for name, data in self.files.items():
            if reference in {name, sha256_of(data)}:
                return name
        raise UnknownVectorError(
            f"no vector {reference!r} is registered (registered: {', '.join(self.listed())})", param=param
        )

    def registry(self, request: httpx.Request, name: str) -> httpx.Response:
        """Answer a request about one vector, `NAME` or `NAME/file`."""
        if request.method == "PUT":
            if not is_name(name):
                raise InvalidRequestError(f"{name!r} is not a name", param="name")
            self.files[name] = self._uploaded(json.loads(request.content), request.content)
            self.revision += 1
            return json_of(self.entry(name), 201)
        if name.endswith("/lens"):
            known, params = self.named(name.removesuffix("/lens")), request.url.params
            layers = [int(layer) for layer in params.get_list("layer")] or None
            return self.lens(self.files[known], layers, int(params.get("top_k", 20)))
        known = self.named(name.removesuffix("/file"))
        if request.method == "DELETE":
            gone = {sha256_of(self.files.pop(known))} - {sha256_of(data) for data in self.files.values()}
            for control in controls_of(gone, self.files):
                del self.files[control]
            return httpx.Response(204)
        if name.endswith("/file"):
            return octets_of(self.files[known])
        return json_of(self.entry(known))

    def lens(self, data: bytes, layers: list[int] | None, top_k: int) -> httpx.Response:
        """The dimensions of a direction as its tokens: `d3` is the fourth; its `z` is its value."""
        file = VectorFile.from_bytes(data)
        read = []
        for layer in sorted(set(layers or [file.metadata.chosen_layer])):
            file.evidence(layer)
            order = [int(i) for i in file.directions[layer].argsort()]
            ends = {"promoted": order[::-1][:top_k], "suppressed": order[:top_k]}
            values = file.directions[layer].tolist()
            read.append(
                LayerLens(
                    layer=layer,
                    **{end: [LensToken(id=i, text=f"d{i}", z=values[i]) for i in ids] for end, ids in ends.items()},
                )
            )
        return json_of(VectorLens(sha256=sha256_of(data), trait=file.metadata.trait, layers=read))

    def _uploaded(self, fields: dict, content: bytes) -> bytes:
        if "file" not in fields:
            return self.files[self.named(parsed(VectorPointer, content).vector)]
        upload = parsed(VectorUpload, content)
        if sha256_of(upload.file) != upload.sha256:
            raise InvalidRequestError(f"the file's sha256 is not {upload.sha256}", param="sha256")
        self.check_fits(upload.file, allow_other_model=upload.allow_other_model)
        return upload.file

    def check_fits(self, data: bytes, *, allow_other_model: bool) -> None:
        """Refuse a vector of another model."""
        metadata = VectorFile.from_bytes(data).metadata
        for field in ("d_model", "n_layers"):
            if getattr(metadata, field) != getattr(self.info, field):
                raise InvalidRequestError(f"the vector has another {field} than the served model", param=field)
        if is_of_another_model(metadata, self.info) and not allow_other_model:
            raise InvalidRequestError("the vector was made for another model", param="config_digest")

    def _gate(self, gate: Gate, where: str) -> AppliedGate:
        """A term's condition; this service says that it is always met."""
        data = self.files[self.named(gate.vector, f"{where}.vector")]
        file = VectorFile.from_bytes(data)
        (layer,) = self.layers_of(None if gate.layer is None else [gate.layer], file, f"{where}.layer")
        bound = (gate.above or gate.below or 0.0) + gate.centred * file.evidence(layer).centre
        return AppliedGate(**gate.model_dump() | {"sha256": sha256_of(data), "layer": layer, "bound": bound})

    def applied(self, terms: Sequence[SteeringTerm]) -> list[AppliedTerm]:
        """Each term on each of its layers."""
        applied = []
        for i, term in enumerate(terms):
            name = self.named(term.vector, f"steering.terms[{i}].vector")
            file = VectorFile.from_bytes(self.files[name])
            at = file.metadata.hook_point
            if term.at not in (None, at) or at not in self.info.hook_points:
                message = f"the vector {name!r} is for {at}, and {term.at} is asked for"
                raise InvalidRequestError(message, param=f"steering.terms[{i}].at")
            for layer in self.layers_of(term.layers, file, f"steering.terms[{i}].layers"):
                norm = file.evidence(layer).residual_norm
                free = term.operation in UNITLESS
                value = term.coefficient if free else residual_units(term.coefficient, term.unit, file.evidence(layer))
                applied.append(
                    AppliedTerm(
                        vector=name, sha256=sha256_of(self.files[name]), layer=layer, at=at, a=value,
                        relative_dose=relative_dose(term.operation, value, norm),
                        when=None if term.when is None else self._gate(term.when, f"steering.terms[{i}].when"),
                        **term.model_dump(include={"operation", "unit", "coefficient", "scope"}),
                    )
                )  # fmt: skip
        limit = self.info.limits.max_relative_dose
        for layer in {term.layer for term in applied}:
            dose = math.fsum(term.relative_dose for term in applied if term.layer == layer)
            if dose > limit:
                raise InvalidRequestError(
                    f"the relative dose on layer {layer} is {dose:.4g}; allowed: at most {limit:g}", "steering.terms"
                )
        return applied

    def layers_of(self, asked: list[int] | None, file: VectorFile, param: str) -> list[int]:
        """The layers that are asked for, or the file's choice."""
        layers = [file.metadata.chosen_layer] if asked is None else asked
        self.check_layers(layers, param)
        if missing := [layer for layer in layers if layer not in file.directions]:
            raise InvalidRequestError(f"layer {missing[0]} is not in the vector, which has {[*file.directions]}", param)
        return layers

    def check_layers(self, layers: Sequence[int], param: str) -> None:
        """Refuse layers that the model does not have."""
        for layer in layers:
            if layer >= self.info.n_layers:
                raise InvalidRequestError(f"layer {layer} is out of range: 0..{self.info.n_layers - 1}", param)


def json_of(model: BaseModel, status: int = 200) -> httpx.Response:
    """A model of the schema as a response."""
    return httpx.Response(status, json=model.model_dump(mode="json"))


def octets_of(data: bytes) -> httpx.Response:
    """A file as a response."""
    return httpx.Response(200, content=data, headers={"content-type": "application/octet-stream"})


def parsed(model: type[M], value: bytes | dict, prefix: str = "") -> M:
    """A part of a request, strictly read."""
    try:
        return model.model_validate_json(value if isinstance(value, bytes) else json.dumps(value))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = prefix + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"])
        where = where.lstrip(".")
        raise InvalidRequestError(f"{where}: {first['msg']}", param=where) from error
