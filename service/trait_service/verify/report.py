"""All checks, one after another, and their report."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trait_service.verify.bench import Bench, Tolerance
from trait_service.verify.checks import (
    Check,
    Finding,
    capture_equals_hidden_states,
    coefficient_zero_is_a_no_op,
    many_configurations,
    neighbours_untouched,
    operations_and_scopes,
    prefix_cache_does_not_leak,
    steering_takes_effect,
)
from trait_service.verify.cost import cost_of_steering
from trait_service.verify.probe import Engine
from trait_service.verify.reference import NoReferenceError, Reference

CHECKS: dict[str, Check] = {
    "steering takes effect": steering_takes_effect,
    "coefficient 0 is a no-op": coefficient_zero_is_a_no_op,
    "operations and scopes": operations_and_scopes,
    "neighbours untouched": neighbours_untouched,
    "many configurations": many_configurations,
    "capture": capture_equals_hidden_states,
    "prefix cache": prefix_cache_does_not_leak,
    "cost": cost_of_steering,
}

STYLES = {"ok": "green", "failed": "bold red", "skipped": "yellow", "measured": "cyan"}


@dataclass(frozen=True)
class Report:
    """Result of a verification.

    Args:
        subject: The verified model, dtype, sizes and versions.
        tolerance: Largest differences that counted as equal.
        findings: Check -> finding, in order.
    """

    subject: dict[str, Any]
    tolerance: Tolerance
    findings: dict[str, Finding]

    @property
    def passed(self) -> bool:
        """True if no check failed."""
        return all(finding.status != "failed" for finding in self.findings.values())

    @property
    def exit_code(self) -> int:
        """0, or 1 if a check failed."""
        return 0 if self.passed else 1

    def to_dict(self) -> dict[str, Any]:
        """Convert to the JSON of `--json`."""
        return {
            "passed": self.passed,
            "subject": self.subject,
            "tolerance": asdict(self.tolerance),
            "checks": {name: asdict(finding) for name, finding in self.findings.items()},
        }

    def render(self) -> RenderableType:
        """Render as a table for the terminal."""
        subject = ", ".join(f"{name} {value}" for name, value in self.subject.items())
        allowed = (
            f"allowed for {self.subject['dtype']}: mean |delta logprob| {self.tolerance.logprob:g}, captures "
            f"{self.tolerance.capture:g} relative"
        )
        table = Table(box=None, pad_edge=False)
        for column in ("check", "result", "what was found"):
            table.add_column(column, overflow="fold")
        for name, finding in self.findings.items():
            table.add_row(name, Text(finding.status, style=STYLES[finding.status]), Text(finding.detail))
        n_failed = sum(finding.status == "failed" for finding in self.findings.values())
        n_skipped = sum(finding.status == "skipped" for finding in self.findings.values())
        skipped = f", {n_skipped} skipped" if n_skipped else ""
        verdict = f"{n_failed} of {len(self.findings)} checks failed" if n_failed else f"verified{skipped}"
        return Group(Text(subject), Text(allowed), table, Text(verdict, style="bold red" if n_failed else "bold green"))


def verify_engine(
    engine: Engine,
    reference: Reference | NoReferenceError,
    tolerance: Tolerance,
    *,
    quick: bool,
    subject: dict[str, Any],
    say: Callable[[str], None],
    checks: Mapping[str, Check] = CHECKS,
) -> Report:
    """Run the checks on an engine.

    Args:
        engine: The engine under test.
        reference: Reference of the same model, or the reason why there is none.
        tolerance: Largest differences that count as equal.
        quick: Fewer and smaller runs.
        subject: Description of the engine for the report.
        say: Receives the name of each check as it starts.
        checks: Name -> check.
    """
    findings: dict[str, Finding] = {}
    try:
        bench = Bench.measure(engine, reference, tolerance, quick=quick)
    except Exception as error:  # noqa: BLE001 - an engine that cannot be measured is not verified, whatever the reason
        return Report(subject, tolerance, {"capture": _broken(error)})
    for name, check in checks.items():
        say(name)
        try:
            findings[name] = check(bench)
        except Exception as error:  # noqa: BLE001 - a check that cannot finish has failed, and says why
            findings[name] = _broken(error)
    return Report(subject, tolerance, findings)


def _broken(error: Exception) -> Finding:
    return Finding("failed", f"{type(error).__name__}: {error}"[:600])
