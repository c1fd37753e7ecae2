"""Provenance of a vector: everything that decides its directions."""

from dataclasses import asdict, dataclass
from typing import Any

from trait_core.schema import HookPoint, ServiceInfo, VectorMetadata

from trait_extraction.fitting.methods import METHOD_OPTIONS, UNPAIRED_OPTIONS
from trait_extraction.plan import Plan


@dataclass(frozen=True)
class Provenance:
    """Everything that decides a vector's directions: fields of `VectorMetadata`, by their names there."""

    trait: str
    model: str
    config_digest: str
    weights_digest: str | None
    n_layers: int
    d_model: int
    hook_point: HookPoint
    method: str
    method_options: dict[str, Any]
    positions: str
    dataset_digest: str
    style: str
    derived: bool
    elicitation: dict[str, Any] | None
    n_positive: int
    n_negative: int
    n_held_out: int
    chat_template_digest: str | None
    seed: int

    @classmethod
    def of(cls, plan: Plan, info: ServiceInfo, method: str) -> "Provenance":
        """The provenance of the vector that a plan gives on a model, by a method."""
        dataset, settings = plan.dataset, plan.settings
        options: dict[str, Any] = {
            **(METHOD_OPTIONS if dataset.paired else UNPAIRED_OPTIONS)[method],
            "held_out": settings.held_out,
            "splits": settings.splits,
            "read_in": " ".join(filter(None, [info.dtype, info.quantization])),
        }
        if not dataset.paired:
            options["paired"] = False
        if plan.elicitation is not None:
            options["generation"] = settings.generation.model_dump()
        if dataset.style == "continued":
            options["samples"] = settings.samples
        if settings.massive is not None:
            options["cleaned"] = settings.massive.as_json()
        if plan.left_out is not None:
            options["left_out"] = [plan.left_out.positive, plan.left_out.negative]
        if settings.chat_template_kwargs:
            options["chat_template_kwargs"] = settings.chat_template_kwargs
        return cls(
            trait=dataset.trait,
            model=info.model,
            config_digest=info.config_digest,
            weights_digest=info.weights_digest,
            n_layers=info.n_layers,
            d_model=info.d_model,
            hook_point=settings.at,
            method=method,
            method_options=options,
            positions=str(settings.positions),
            dataset_digest=plan.dataset_digest,
            style=dataset.style,
            derived=dataset.derived,
            elicitation=None if plan.elicitation is None else plan.elicitation.model_dump(),
            n_positive=len(dataset.positive),
            n_negative=len(dataset.negative),
            n_held_out=len(plan.splits[0].held_out.positive),
            chat_template_digest=None if dataset.is_raw else info.chat_template_digest,
            seed=settings.seed,
        )

    def made(self, metadata: VectorMetadata) -> bool:
        """True if a vector file was made from the same; the wording of a failed check does not count."""
        return _without_wording(asdict(self)) == _without_wording(metadata.model_dump(include=set(asdict(self))))


def _without_wording(fields: dict[str, Any]) -> dict[str, Any]:
    found = fields["elicitation"]
    return fields if found is None else fields | {"elicitation": {k: v for k, v in found.items() if k != "fault"}}
