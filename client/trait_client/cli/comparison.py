"""One prompt's baseline and steered reply: the numbers and their printed form."""

from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.panel import Panel
from rich.table import Table as Grid

from trait_client.cli.lens_option import lens_json, lens_table
from trait_client.http.replies import ChatResult
from trait_core.console import out, plain, print_table
from trait_core.schema import ActedPositions, AppliedTerm, SteeredPositions
from trait_core.tables import Column, Table

NARROW = 80
"""Below this many columns the replies are stacked."""


@dataclass
class Comparison:
    """One prompt's replies.

    Attributes:
        projections: Layer -> (baseline, steered) centred projections of the replies, read unsteered, residual units.
    """

    prompt: str
    baseline: ChatResult | None
    steered: ChatResult
    projections: dict[int, tuple[float | None, float | None]]

    @property
    def applied(self) -> list[AppliedTerm]:
        """Terms that the service reports; the client refuses a steered reply without them."""
        if self.steered.steering is None:
            raise AssertionError("unreachable")
        return self.steered.steering.applied

    def as_json(self) -> dict[str, Any]:
        """One entry of `results` in the JSON document."""
        report = self.steered.model_dump(mode="json")["steering"]
        return {
            "prompt": self.prompt,
            "baseline": None if self.baseline is None else _reply_json(self.baseline),
            "steered": _reply_json(self.steered),
            "applied": report["applied"],
            "positions": report["positions"],
            "projections": [
                {"layer": layer, "baseline": baseline, "steered": steered}
                for layer, (baseline, steered) in self.projections.items()
            ],
        }


def print_comparison(comparison: Comparison) -> None:
    """Print one comparison on stdout."""
    out.print(plain(comparison.prompt), style="bold")
    steered = _panel("steered", comparison.steered, "cyan")
    if comparison.baseline is None:
        out.print(steered)
    else:
        out.print(_beside(_panel("baseline", comparison.baseline, "white"), steered))
    if comparison.steered.steering is not None:
        print_table(_numbers(comparison, comparison.steered.steering.positions))
    for title, reply in (("baseline", comparison.baseline), ("steered", comparison.steered)):
        table = None if reply is None else lens_table(title, reply)
        if table is not None:
            print_table(table)
    out.print()


def _beside(left: Panel, right: Panel) -> Group | Grid:
    if out.width < NARROW:
        return Group(left, right)
    grid = Grid.grid(expand=True, padding=(0, 1))
    grid.add_column(ratio=1)
    grid.add_column(ratio=1)
    grid.add_row(left, right)
    return grid


def _panel(title: str, reply: ChatResult, border: str) -> Panel:
    cut = " (cut at the token limit)" if reply.finish_reason == "length" else ""
    return Panel(
        plain(reply.text.strip() or "(empty)"),
        title=title,
        subtitle=f"{reply.usage.completion_tokens} tokens{cut}",
        border_style=border,
    )


def _numbers(comparison: Comparison, positions: SteeredPositions) -> Table:
    numbers = [Column(heading, right=True) for heading in ("a", "rel. dose")]
    columns = [Column("layer"), Column("coef", right=True), Column("unit"), *numbers, Column("steered positions")]
    rows = [
        [
            str(term.layer),
            f"{term.coefficient:g}",
            term.unit if term.operation == "add" else f"{term.unit} ({term.operation})",
            f"{term.a:.4g}",
            f"{term.relative_dose:.3g}",
            _steered(term.acted or positions),
            _projection(comparison, term),
        ]
        for term in comparison.applied
    ]
    return Table([*columns, Column("projection", right=True)], rows)


def _steered(positions: SteeredPositions | ActedPositions) -> str:
    return f"{positions.prompt} prompt + {positions.generated} generated"


def _projection(comparison: Comparison, term: AppliedTerm) -> str:
    baseline, steered = comparison.projections[term.layer]
    after = "-" if steered is None else f"{steered:+.3g}"
    return after if baseline is None else f"{baseline:+.3g} → {after}"


def _reply_json(reply: ChatResult) -> dict[str, Any]:
    document = {
        "text": reply.text,
        "reasoning": reply.reasoning,
        "finish_reason": reply.finish_reason,
        "usage": reply.usage.model_dump(),
    }
    lens = lens_json(reply)
    return document if lens is None else document | {"lens": lens}
