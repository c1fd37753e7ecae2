"""One HTTP request's work in the engine: what it asks for, what travels to the workers, and what they report."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from trait_core.errors import SteeringFailedError
from trait_core.schema import ActedPositions, MonitorReport, SteeredPositions, SteeringReport

from trait_service.engine.spec import CaptureSpec, RequestSpec, TermSpec
from trait_service.engine_link.workers import Collected
from trait_service.resolving.landmarks import Turns
from trait_service.resolving.monitoring import Decode, MonitoredPrompt, ResolvedMonitor
from trait_service.resolving.placing import Placed
from trait_service.resolving.resolve import ResolvedSteering
from trait_service.resolving.stream_lens import LensRows, TokenText


@dataclass
class Run:
    """One HTTP request's work in the engine: what it asks for, and what the workers report.

    Args:
        steering: None reads or generates unsteered.
        capture: Pools to keep; None keeps none.
        monitor: Projections to answer; None answers none.
        collected: One entry for each finished prompt of the request.
        monitored: One entry for each prompt of a monitored request.
        started: Prompts that were handed to the engine.
        columns_named: A report with the columns' names was made.
        terms: The steering's terms with their scopes placed in this prompt; None: as they are.
        turns: The turns of the chat; None: it is none, or no scope names them.
    """

    steering: ResolvedSteering | None = None
    capture: CaptureSpec | None = None
    monitor: ResolvedMonitor | None = None
    collected: list[Collected] = field(default_factory=list)
    monitored: list[MonitoredPrompt] = field(default_factory=list)
    started: int = 0
    columns_named: bool = False
    terms: Sequence[TermSpec] | None = None
    turns: Turns | None = None

    @property
    def directions(self) -> dict[str, bytes]:
        """sha256 hex -> float32 bytes of every direction that must be in the vector bank."""
        steering = self.steering.directions if self.steering else {}
        return steering | (self.monitor.directions if self.monitor else {})

    @property
    def vectors(self) -> set[str]:
        """`sha256:...` of every vector file that the request uses."""
        steering = self.steering.vectors if self.steering else set()
        return steering | ({column.sha256 for column in self.monitor.columns} if self.monitor else set())

    @property
    def steered_terms(self) -> Sequence[TermSpec]:
        """The terms as they travel to the workers."""
        if self.terms is not None:
            return self.terms
        return self.steering.terms if self.steering else ()

    def new_spec(
        self,
        n: int,
        prompt_ids: list[int],
        decode: Decode,
        token_text: TokenText,
        terms: Sequence[TermSpec],
        watched: Placed | None = None,
    ) -> RequestSpec:
        """The spec for one more prompt of the request, with a new key.

        Args:
            n: Completions of the prompt.
            prompt_ids: Its tokens.
            decode: Returns the text of token ids.
            token_text: Returns the text of one.
            terms: The terms, placed in it.
            watched: The monitored positions, placed in it; None: as they are.
        """
        key = secrets.token_hex(16)
        if self.monitor is not None:
            lens = None if self.monitor.lens is None else LensRows(self.monitor.lens, token_text)
            known, reply = (None, None) if watched is None else (watched.known, watched.reply)
            first = self.started * n
            self.monitored.append(
                MonitoredPrompt(self.monitor, key, prompt_ids, first, decode, lens, positions=known, reply=reply)
            )
        self.started += 1
        return RequestSpec(
            key=key,
            n=n,
            terms=list(terms),
            capture=self.capture,
            monitor=self.monitor.spec if self.monitor else None,
            lens=self.monitor.lens if self.monitor else None,
        )

    def collect(self, key: str, collected: Collected) -> None:
        """Add the workers' results of a finished prompt."""
        self.collected.append(collected)
        for prompt in self.monitored:
            if prompt.key == key:
                prompt.hits = {hit.completion: hit for hit in collected.report.bound_hits}
                for completion, rows in collected.rows.projections.items():
                    prompt.add(completion, rows, 0)
                for completion, rows in collected.rows.guesses.items():
                    prompt.add_guesses(completion, rows, 0)

    @property
    def ended(self) -> bool:
        """True once every prompt of the request has finished and been reported."""
        return 0 < self.started == len(self.collected)

    def monitor_report(self) -> MonitorReport | None:
        """The `monitor` block of the response, or of the next chunk: rows that arrived since the last call.

        The first one with rows names the columns; those of the following chunks do not repeat them.

        Raises:
            SteeringFailedError: A token was emitted before its projection arrived.
        """
        if self.monitor is None:
            return None
        choices = [choice for prompt in self.monitored for choice in prompt.take()]
        names, self.columns_named = bool(choices) and not self.columns_named, self.columns_named or bool(choices)
        layers = self.monitor.lens.layers if self.monitor.lens else []
        return MonitorReport(
            directions=list(self.monitor.columns) if names else [], lens_layers=layers if names else [], choices=choices
        )

    def report(self) -> SteeringReport:
        """The `steering` block of the response, summed over the request's prompts.

        Raises:
            SteeringFailedError: A prompt has no report.
        """
        if self.steering is None or not self.ended:
            raise SteeringFailedError(f"{len(self.collected)} of {self.started} prompts were reported as steered")
        return report_of(self.steering, self.collected)


def report_of(steering: ResolvedSteering, collected: list[Collected]) -> SteeringReport:
    """The report of what was applied, and to how many positions of all prompts together."""
    reports = [item.report for item in collected]
    return SteeringReport(
        applied=[
            term.model_copy(update={"acted": _acted([report.acted[i] for report in reports if report.acted])})
            for i, term in enumerate(steering.applied)
        ],
        positions=SteeredPositions(
            prompt=sum(report.steered_prompt for report in reports),
            generated=sum(report.steered_generated for report in reports),
            cached=sum(report.steered_cached for report in reports),
        ),
    )


def _acted(counts: list[tuple[int, int]]) -> ActedPositions:
    """Prompt and generated positions of one term, summed over prompts."""
    return ActedPositions(prompt=sum(prompt for prompt, _ in counts), generated=sum(after for _, after in counts))
