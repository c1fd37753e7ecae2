"""Vector files made of fitted directions and their evidence."""

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version

from trait_core.schema import ServiceInfo, VectorMetadata
from trait_core.vectors.file import VectorFile

from trait_extraction.fitting.directions import Fitted
from trait_extraction.fitting.evaluation import Evidence
from trait_extraction.fitting.layer_choice import LayerChoice
from trait_extraction.fitting.provenance import Provenance
from trait_extraction.plan import Plan


def build(
    plan: Plan, info: ServiceInfo, fitted: Fitted, evidence: Mapping[str, Evidence], choice: LayerChoice
) -> dict[str, VectorFile]:
    """Method -> vector file, for each wanted method; all of them steer on the chosen layer."""
    layer, because = choice
    versions = {name: version(name) for name in ("trait-steering", "numpy", "scikit-learn")}
    return {
        method: VectorFile(
            VectorMetadata(
                **asdict(Provenance.of(plan, info, method)),
                layers=evidence[method],
                chosen_layer=layer,
                chosen_because=because,
                versions=versions,
            ),
            fitted.first[method],
        )
        for method in fitted.wanted
    }


def with_layer(vector: VectorFile, choice: LayerChoice) -> VectorFile:
    """The same vector, steering on another layer."""
    layer, because = choice
    return VectorFile(
        vector.metadata.model_copy(update={"chosen_layer": layer, "chosen_because": because}), vector.directions
    )
