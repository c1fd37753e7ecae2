"""A span for each prompt that was steered, monitored or captured, in addition to vLLM's `llm_request`.

Sent where vLLM traces (`--otlp-traces-endpoint`), with the caller's `traceparent` as the parent. Numbers and hashes only:
no text of a prompt, no reply, no name that a caller made up.
"""

import time
from collections.abc import Mapping
from typing import Any

from vllm.tracing import extract_trace_context, instrument_manual

from trait_service.engine_link.workers import Collected
from trait_service.resolving.monitoring import ResolvedMonitor
from trait_service.resolving.resolve import ResolvedSteering

NAME = "trait_steering"


class SteeringSpan:
    """One prompt's span, from the moment that it asks for the vector bank.

    Args:
        request_id: As vLLM's span has it.
        headers: The caller's `traceparent` and `tracestate`; None or empty starts a trace.
    """

    def __init__(self, request_id: str, headers: Mapping[str, str] | None) -> None:
        self._request_id = request_id
        self._headers = headers
        self._started = time.time_ns()
        self._leased = self._started

    def leased(self) -> None:
        """Note that the directions are in the bank."""
        self._leased = time.time_ns()

    def end(self, steering: ResolvedSteering | None, monitor: ResolvedMonitor | None, collected: Collected) -> None:
        """Send the span, with the worker's report."""
        applied = steering.applied if steering else ()
        report = collected.report
        attributes: dict[str, Any] = {
            "gen_ai.request.id": self._request_id,
            "trait.bank.wait_seconds": (self._leased - self._started) / 1e9,
            "trait.terms": len(applied),
            "trait.operations": sorted({term.operation for term in applied}),
            "trait.layers": sorted({term.layer for term in applied}),
            "trait.vectors": sorted({term.sha256 for term in applied}),
            "trait.relative_dose.max": max((term.relative_dose for term in applied), default=0.0),
            "trait.positions.prompt": report.steered_prompt,
            "trait.positions.generated": report.steered_generated,
            "trait.positions.cached": report.steered_cached,
            "trait.monitored": len(monitor.columns) if monitor else 0,
            "trait.captured": collected.capture is not None or collected.each is not None,
        }
        instrument_manual(NAME, self._started, attributes=attributes, context=extract_trace_context(self._headers))
