"""`monitor` of a request: from names to directions on the way in, from the workers' projections to an answer on the way out.

Row r of a request's projections belongs to position `first + r`: first is 0, or the last prompt position where the prompt
is not monitored. Generated token j was produced by position `n_prompt - 1 + j`.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from trait_core.errors import InvalidRequestError, SteeringFailedError
from trait_core.positions import Positions
from trait_core.schema import (
    MAX_MONITORED,
    CrossedBound,
    HookPoint,
    Monitor,
    MonitorBound,
    MonitoredChoice,
    MonitoredDirection,
)

from trait_service.engine.monitor_columns import MonitorColumn, MonitorColumns
from trait_service.engine.projection_rows import ProjectionRows
from trait_service.engine.reply_scopes import HeldPositions
from trait_service.engine.reply_selector import ReplySelector
from trait_service.engine.spec import BoundHit, LensSpec, MonitorSpec
from trait_service.resolving.given import GivenVector
from trait_service.resolving.resolve import Resolver
from trait_service.resolving.stream_lens import LensRows, lens_spec

Decode = Callable[[list[int]], str]

SIGNIFICANT, MOST_DECIMALS = 7, 60
"""Digits of a projection in an answer; decimals of the smallest one."""

LONGEST_CHARACTER = 4
"""Tokens that one character may be spread over: a token holds a byte at least."""


@dataclass(frozen=True)
class ResolvedMonitor:
    """One request's monitor, ready for the engine.

    Args:
        spec: Monitor as it travels to the worker; its bounds are in residual units. None: nothing is projected.
        columns: Vector, layer and centre of each column.
        bounds: The bound of each column, as the request wrote it.
        directions: sha256 hex -> float32 bytes.
        tokens: The answer holds each token's text.
        positions: Positions whose rows are answered, as the request wrote them; None: all.
        lens: Layers and number of tokens of its lens; None: it has none.
    """

    spec: MonitorSpec | None
    columns: tuple[MonitoredDirection, ...]
    bounds: tuple[MonitorBound | None, ...]
    directions: dict[str, bytes]
    tokens: bool = False
    positions: Positions | None = None
    lens: LensSpec | None = None

    @property
    def projects_prompt(self) -> bool:
        """True if the prompt is projected."""
        return self.spec is not None and self.spec.prompt

    @property
    def centres(self) -> np.ndarray:
        """`(n_columns,)` float32."""
        return np.array([column.centre for column in self.columns], dtype=np.float32)


def resolve_monitor(resolver: Resolver, monitor: Monitor) -> ResolvedMonitor:
    """Resolve a monitor's vectors on each of their layers.

    Raises:
        InvalidRequestError: A vector or layer does not exist, a bound matches no column, or there are too many columns, or
            positions count from the end of a reply that is generated.
    """
    positions = None if monitor.positions is None else _checked(Positions.parse(monitor.positions))
    columns: list[MonitoredDirection] = []
    specs: list[MonitorColumn] = []
    bounds: list[MonitorBound | None] = []
    directions: dict[str, bytes] = {}
    used: set[int] = set()
    for i, name in enumerate(monitor.vectors):
        vector = resolver.vector(name, f"monitor.vectors[{i}]")
        at = resolver.common_hook_point(monitor.at, [GivenVector.registered(vector)], "monitor.at")
        for layer in resolver.layers(monitor.layers, vector, "monitor.layers"):
            digest, raw = vector.directions[layer]
            directions[digest] = raw
            centre = vector.file.evidence(layer).centre if monitor.centred and not monitor.cosine else 0.0
            columns.append(MonitoredDirection(vector=name, sha256=vector.sha256, layer=layer, at=at, centre=centre))
            matching = [
                b for b, bound in enumerate(monitor.bounds) if bound.vector == name and bound.layer in (None, layer)
            ]
            if len(matching) > 1:
                raise InvalidRequestError(f"{len(matching)} bounds are on {name!r}, layer {layer}", "monitor.bounds")
            used.update(matching)
            bound = monitor.bounds[matching[0]] if matching else None
            bounds.append(bound)
            specs.append(_column(layer, at, digest, monitor.cosine, centre, bound))
    if unused := [b for b in range(len(monitor.bounds)) if b not in used]:
        bound = monitor.bounds[unused[0]]
        raise InvalidRequestError(
            f"the bound on {bound.vector!r}, layer {bound.layer}, matches nothing that is monitored: "
            f"{', '.join(f'{c.vector} layer {c.layer}' for c in columns[:8])}",
            param=f"monitor.bounds[{unused[0]}]",
        )
    if len(specs) > MAX_MONITORED:
        raise InvalidRequestError(
            f"{len(specs)} directions (vectors times layers) are monitored; at most {MAX_MONITORED}", "monitor"
        )
    spec = MonitorSpec(columns=MonitorColumns.of(specs), prompt=monitor.prompt) if specs else None
    lens = None if monitor.lens is None else lens_spec(monitor.lens)
    return ResolvedMonitor(spec, tuple(columns), tuple(bounds), directions, monitor.tokens, positions, lens)


def _checked(positions: Positions) -> Positions:
    """Refuse positions that count from the end of a reply; those that depend on tokens are checked against the prompt.

    Raises:
        InvalidRequestError: They do.
    """
    if positions.needs_tokens:
        return positions
    try:
        positions.intervals(1, None)
    except InvalidRequestError as error:
        raise InvalidRequestError(str(error), param="monitor.positions") from error
    return positions


def _column(
    layer: int, at: HookPoint, digest: str, cosine: bool, centre: float, bound: MonitorBound | None
) -> MonitorColumn:
    if bound is None:
        return MonitorColumn(layer=layer, at=at, direction=digest, cosine=cosine)
    return MonitorColumn(
        layer=layer,
        at=at,
        direction=digest,
        cosine=cosine,
        above=None if bound.above is None else bound.above + centre,
        below=None if bound.below is None else bound.below + centre,
        stop=bound.action == "stop",
    )


class TokenTexts:
    """The text of each token of one sequence, as its tokens come in.

    Args:
        decode: Text of token ids, special ones included.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._open: list[int] = []

    def feed(self, ids: Sequence[int]) -> list[str]:
        """A text for each id: "" while a character is incomplete, and all of it with the token that completes it."""
        texts = []
        for token in ids:
            self._open.append(token)
            text = self._decode(self._open)
            whole = not text.endswith("\ufffd") or len(self._open) > LONGEST_CHARACTER
            texts.append(text if whole else "")
            if whole:
                self._open = []
        return texts


@dataclass
class MonitoredPrompt:
    """Projections of one prompt's completions, and what their lens reads, as they arrive.

    Args:
        monitor: The monitored directions.
        key: Key of the request's spec.
        prompt_ids: Tokens of the prompt.
        first_index: Index of its first completion among the response's choices.
        decode: Text of token ids.
        lens: Readings of its lens; None: it has none.
        positions: The monitor's positions, as far as the prompt tells them; None: as they are written.
        reply: Those that the tokens of the reply tell; None: none.
    """

    monitor: ResolvedMonitor
    key: str
    prompt_ids: Sequence[int]
    first_index: int
    decode: Decode
    lens: LensRows | None = None
    positions: Positions | None = None
    reply: ReplySelector | None = None
    rows: dict[int, ProjectionRows] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    texts: dict[int, TokenTexts] = field(default_factory=dict)
    fresh_ids: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    held: dict[int, HeldPositions] = field(default_factory=dict)
    sent: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    hits: dict[int, BoundHit] = field(default_factory=dict)
    prompt_sent: bool = False

    @property
    def n_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt_ids)

    def note_tokens(self, completion: int, ids: Sequence[int]) -> None:
        """Note the tokens that a completion has emitted."""
        self.tokens[completion] += len(ids)
        self.fresh_ids[completion] += ids
        if self.reply is not None:
            self._held(self.reply, completion).feed(ids)

    @property
    def first_projected(self) -> int:
        """Absolute position of the first row."""
        return 0 if self.monitor.projects_prompt else self.n_prompt - 1

    @property
    def received(self) -> int:
        """First absolute position of which something has not arrived yet for a completion that runs; 0 at first."""
        known = []
        for completion in self.tokens:
            if self.monitor.columns:
                known.append(self.first_projected + len(self._rows(completion)))
            if self.lens is not None:
                known.append(self.n_prompt - 1 + len(self.lens.of(completion)))
        return min(known, default=0)

    def _held(self, reply: ReplySelector, completion: int) -> HeldPositions:
        if completion not in self.held:
            self.held[completion] = HeldPositions(reply)
        return self.held[completion]

    def _rows(self, completion: int) -> ProjectionRows:
        return self.rows.setdefault(completion, ProjectionRows(len(self.monitor.columns)))

    def add(self, completion: int, rows: np.ndarray, start: int) -> None:
        """Add rows of a completion, the first of which is row `start`; rows that arrived before are skipped.

        Args:
            completion: Index of the completion.
            rows: `(n_positions, n_columns)` float32.
            start: Row of the first of them.
        """
        have = self._rows(completion)
        if start <= len(have) < start + len(rows):
            have.append(rows[len(have) - start :])

    def add_guesses(self, completion: int, rows: np.ndarray, start: int) -> None:
        """As `add`, of what the lens has read: `(n_positions, n_layers * 2 * top_k)` float32."""
        assert self.lens is not None, "the workers read what was asked for"
        self.lens.add(completion, rows, start)

    def take(self) -> list[MonitoredChoice]:
        """Rows for tokens already emitted that have not been read.

        Raises:
            SteeringFailedError: A token was emitted before its projection arrived.
        """
        taken = []
        for completion in sorted(self.tokens):
            choice = self._take(completion)
            if choice.prompt or choice.generated or choice.crossed or choice.lens:
                taken.append(choice)
        return taken

    def _take(self, completion: int) -> MonitoredChoice:
        n_tokens, done = self.tokens[completion], self.sent[completion]
        produced_from = self.n_prompt - 1 + done
        produced_by = self._selected(produced_from, self.n_prompt - 1 + n_tokens, completion)
        choice = MonitoredChoice(index=self.first_index + completion)
        prompt = produced_by[:0]
        if self.monitor.columns:
            rows, base = self._rows(completion), self.n_prompt - 1 - self.first_projected
            self._check_arrived(len(rows) - base, n_tokens, "projections")
            choice.generated = self._values(rows.view(base + done, base + n_tokens)[produced_by - produced_from])
            if self.monitor.projects_prompt and not self.prompt_sent and n_tokens:
                prompt = self._selected(0, self.n_prompt, completion)
                choice.prompt = self._values(rows.view(0, self.n_prompt)[prompt])
                self.prompt_sent = True
        if self.lens is not None:
            guessed = self.lens.of(completion)
            self._check_arrived(len(guessed), n_tokens, "readings of the lens")
            choice.lens = self.lens.guesses(guessed.view(done, n_tokens)[produced_by - produced_from])
        if self.monitor.positions is not None:
            choice.prompt_positions, choice.generated_positions = prompt.tolist(), produced_by.tolist()
        self.sent[completion] = n_tokens
        fresh = self.fresh_ids.pop(completion, [])
        if self.monitor.tokens:
            texts = self.texts.setdefault(completion, TokenTexts(self.decode))
            generated = texts.feed(fresh)
            choice.generated_tokens = [generated[at] for at in produced_by - produced_from]
            if choice.prompt:
                whole = TokenTexts(self.decode).feed(self.prompt_ids)
                choice.prompt_tokens = [whole[at] for at in prompt]
        hit = self.hits.pop(completion, None)
        if hit is not None:
            choice.crossed = self._crossed(hit)
        return choice

    def _check_arrived(self, n_arrived: int, n_tokens: int, what: str) -> None:
        if n_arrived < n_tokens:
            raise SteeringFailedError(f"{n_tokens} tokens were generated and {max(n_arrived, 0)} {what} came back")

    def _selected(self, start: int, stop: int, completion: int) -> np.ndarray:
        """The positions of `[start, stop)` whose rows are answered, ascending."""
        positions = self.positions or self.monitor.positions
        if positions is None:
            return np.arange(start, stop)
        held = np.zeros(max(stop, 0), dtype=np.bool_)
        for each in positions.intervals(self.n_prompt, None):
            held[each.start : each.stop : each.step] = True
        if self.reply is not None:
            held |= self._held(self.reply, completion).below(stop)
        return np.flatnonzero(held[start:]) + start

    def _values(self, rows: np.ndarray) -> list[list[float]]:
        values: list[list[float]] = rounded(rows - self.monitor.centres).tolist()
        return values

    def _crossed(self, hit: BoundHit) -> CrossedBound:
        column, bound = self.monitor.columns[hit.column], self.monitor.bounds[hit.column]
        assert bound is not None, "a column without a bound is never crossed"
        return CrossedBound(
            vector=column.vector,
            layer=column.layer,
            token=hit.position - (self.n_prompt - 1),
            position=hit.position,
            value=hit.value - column.centre,
            above=bound.above,
            below=bound.below,
            action=bound.action,
        )


def rounded(values: np.ndarray) -> np.ndarray:
    """Float32 numbers as the answer has them, float64 with seven significant digits: half as long as JSON, and as precise.

    Numbers of a million and more keep all digits before the point.
    """
    wide = values.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 10.0 ** np.clip(SIGNIFICANT - 1 - np.floor(np.log10(np.abs(wide))), 0, MOST_DECIMALS)
        return np.where(np.isfinite(wide) & (wide != 0), np.round(wide * scale) / scale, wide)


def stop_reason(crossed: CrossedBound) -> str:
    """The `stop_reason` of a reply that a bound ended."""
    limit = f"above {crossed.above:g}" if crossed.above is not None and crossed.value > crossed.above else ""
    limit = limit or f"below {crossed.below:g}"
    return (
        f"monitor: {crossed.vector} at layer {crossed.layer} is {crossed.value:.4g}, {limit}, at token {crossed.token}"
    )
