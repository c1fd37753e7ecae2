"""The wire schema: what travels between client and service, defined once.

Requests are strict: an unknown field, a wrong type or a non-finite number is refused. Responses are read leniently
(unknown fields are ignored), so that a client meets a newer service.
"""

from trait_client.schema.activations import (
    ActivationInput,
    ActivationsMetadata,
    ActivationsRequest,
    Generation,
    Message,
)
from trait_client.schema.base import (
    MAX_LAYERS,
    MAX_TERMS,
    NAME_PATTERN,
    SHA256_PATTERN,
    FiniteFloat,
    Layer,
    NamedScope,
    Operation,
    Request,
    Response,
    Unit,
    VectorReference,
    is_name,
)
from trait_client.schema.monitoring import (
    MAX_MONITORED,
    CrossedBound,
    Monitor,
    MonitorBound,
    MonitoredChoice,
    MonitoredDirection,
    MonitorReport,
)
from trait_client.schema.service import (
    ErrorBody,
    ErrorDetail,
    ServiceInfo,
    SteeringLimits,
)
from trait_client.schema.steering import (
    AppliedTerm,
    PositionScope,
    Scope,
    SteeredPositions,
    Steering,
    SteeringReport,
    SteeringTerm,
)
from trait_client.schema.vectors import (
    Elicitation,
    ExtractedOn,
    LayerEvidence,
    VectorInfo,
    VectorList,
    VectorMetadata,
    VectorPointer,
    VectorVersion,
)

__all__ = [
    "MAX_LAYERS",
    "MAX_MONITORED",
    "MAX_TERMS",
    "NAME_PATTERN",
    "SHA256_PATTERN",
    "ActivationInput",
    "ActivationsMetadata",
    "ActivationsRequest",
    "AppliedTerm",
    "CrossedBound",
    "Elicitation",
    "ErrorBody",
    "ErrorDetail",
    "ExtractedOn",
    "FiniteFloat",
    "Generation",
    "Layer",
    "LayerEvidence",
    "Message",
    "Monitor",
    "MonitorBound",
    "MonitorReport",
    "MonitoredChoice",
    "MonitoredDirection",
    "NamedScope",
    "Operation",
    "PositionScope",
    "Request",
    "Response",
    "Scope",
    "ServiceInfo",
    "SteeredPositions",
    "Steering",
    "SteeringLimits",
    "SteeringReport",
    "SteeringTerm",
    "Unit",
    "VectorInfo",
    "VectorList",
    "VectorMetadata",
    "VectorPointer",
    "VectorReference",
    "VectorVersion",
    "is_name",
]
