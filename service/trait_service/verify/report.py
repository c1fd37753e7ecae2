"""The report of a verification: all checks, one after another, and the model that they verified."""

import re
from collections.abc import Callable, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trait_service.verify.bench import Bench
from trait_service.verify.checks import (
    Check,
    capture_equals_hidden_states,
    coefficient_zero_is_a_no_op,
    many_configurations,
    neighbours_untouched,
    prefix_cache_does_not_leak,
    steering_takes_effect,
    unsteered_equals_reference,
)
from trait_service.verify.conditional import gates_open_as_in_reference, hook_points_equal_reference
from trait_service.verify.cost import cost_of_steering
from trait_service.verify.findings import Finding
from trait_service.verify.judging import Precision
from trait_service.verify.monitoring import projections_are_right
from trait_service.verify.operations import operations_and_scopes
from trait_service.verify.probe import Engine
from trait_service.verify.reference import NoReferenceError, Reference

CHECKS: dict[str, Check] = {
    "unsteered": unsteered_equals_reference,
    "steering takes effect": steering_takes_effect,
    "coefficient 0 is a no-op": coefficient_zero_is_a_no_op,
    "operations and scopes": operations_and_scopes,
    "hook points": hook_points_equal_reference,
    "gates": gates_open_as_in_reference,
    "neighbours untouched": neighbours_untouched,
    "many configurations": many_configurations,
    "capture": capture_equals_hidden_states,
    "monitoring": projections_are_right,
    "prefix cache": prefix_cache_does_not_leak,
    "cost": cost_of_steering,
}

STYLES = {"ok": "green", "failed": "bold red", "skipped": "yellow", "measured": "cyan"}

_FOLDERS = re.compile(r"(?<![\w./:-])(?:~|\.{1,2})?/(?:[^\s/:'\"()]+/)+")
"""The folders before a file's name, as exceptions quote them; not those of an address."""


class _Published(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Subject(_Published):
    """The verified model and the place where it ran, without paths of the machine.

    Attributes:
        model: Hugging Face id, name of a bundled model, or the last part of a folder's path.
        architecture: Class of the model as vLLM resolved it.
        dtype: Dtype of the activations.
        weights: Quantisation of the weights; the dtype if there is none.
        on: Platform of the engine.
        device: Name of the GPU, or the machine's architecture.
        system: Operating system, `Linux` for example.
        mode: The engine ran eager, or with torch.compile.
        runner: vLLM's model runner.
        scheduling: Whether vLLM plans a step while the last one runs.
        layers: Number of decoder layers.
        width: Width of the residual stream.
        versions: Package -> version: trait-steering, vllm, torch, transformers.
    """

    model: str
    architecture: str
    dtype: str
    weights: str
    on: Literal["CPU", "CUDA"]
    device: str
    system: str
    mode: Literal["eager", "compiled"]
    runner: Literal["V1", "V2"]
    scheduling: Literal["synchronous", "asynchronous"]
    layers: int
    width: int
    versions: dict[str, str]


class Measured(_Published):
    """The scale by which the checks judged; `trait_service.verify.judging` says how.

    Attributes:
        noise: Difference without any steering, nats a token.
        spread: Distance of the likeliest and the tenth likeliest token, nats.
        share: Allowed difference as a share of the effect, besides four times the noise.
        dose: Size of additions as a share of the layer's residual norm.
    """

    noise: float
    spread: float
    share: float
    dose: float


class Report(_Published):
    """Result of a verification: the document of `--json`.

    Attributes:
        schema_version: Raised when a field changes its meaning or goes.
        passed: True if no check failed.
        quick: Fewer and smaller runs were asked for.
        reference: Reference that the engine was compared with, or why there was none.
        measured: None if the engine could not be measured.
        checks: Check -> finding, in order.
    """

    schema_version: Literal[1] = 1
    passed: bool
    quick: bool
    subject: Subject
    reference: str
    measured: Measured | None
    checks: dict[str, Finding] = Field(min_length=1)

    @property
    def exit_code(self) -> int:
        """0, or 1 if a check failed."""
        return 0 if self.passed else 1

    def render(self) -> RenderableType:
        """Render as a table for the terminal."""
        given = self.subject.model_dump()
        versions = given.pop("versions")
        subject = ", ".join(f"{name} {value}" for name, value in (given | versions).items())
        lines = [Text(subject), Text(f"reference: {self.reference}")]
        if self.measured is not None:
            lines.append(Text(_rule(self.measured)))
        table = Table(box=None, pad_edge=False)
        for column in ("check", "result", "what was compared, and what was found"):
            table.add_column(column, overflow="fold")
        for name, finding in self.checks.items():
            found = f"{finding.compared}: {finding.detail}" if finding.compared else finding.detail
            table.add_row(name, Text(finding.status, style=STYLES[finding.status]), Text(found))
        return Group(*lines, table, Text(self.verdict, style="bold green" if self.passed else "bold red"))

    @property
    def verdict(self) -> str:
        """The result in a few words."""
        statuses = [finding.status for finding in self.checks.values()]
        n_failed, n_skipped = statuses.count("failed"), statuses.count("skipped")
        skipped = f", {n_skipped} skipped" if n_skipped else ""
        return f"{n_failed} of {len(statuses)} checks failed" if n_failed else f"verified{skipped}"


def verify_engine(
    engine: Engine,
    reference: Reference | NoReferenceError,
    precision: Precision,
    *,
    quick: bool,
    subject: Subject,
    say: Callable[[str], None],
    checks: Mapping[str, Check] = CHECKS,
) -> Report:
    """Run the checks on an engine.

    Args:
        engine: The engine under test.
        reference: Reference of the same model, or the reason why there is none.
        precision: Limits for the engine's dtype.
        quick: Fewer and smaller runs.
        subject: Description of the engine for the report.
        say: Receives a line as each check starts, and its finding as it ends: a run that is cut short has said what it found.
        checks: Name -> check.
    """
    measured, findings = None, {}
    try:
        bench = Bench.measure(engine, reference, precision, quick=quick)
    except Exception as error:  # noqa: BLE001 - an engine that cannot be measured is not verified, whatever the reason
        findings = dict.fromkeys(checks, _broken(error))
    else:
        scale = bench.scale
        measured = Measured(noise=scale.noise, spread=scale.spread, share=scale.share, dose=bench.dose)
        for name, check in checks.items():
            say(f"checking: {name}")
            try:
                findings[name] = without_folders(check(bench))
            except Exception as error:  # noqa: BLE001 - a check that cannot finish has failed, and says why
                findings[name] = _broken(error)
            say(f"  {findings[name].status}: {findings[name].detail}")
    none = isinstance(reference, NoReferenceError)
    return Report(
        passed=all(finding.status != "failed" for finding in findings.values()),
        quick=quick,
        subject=subject,
        reference=_FOLDERS.sub("", f"none: {reference}") if none else "transformers in float32 on the CPU, with hooks",
        measured=measured,
        checks=findings,
    )


def without_folders(finding: Finding) -> Finding:
    """The finding without the folders of paths, which may name a person or a machine."""
    return finding.model_copy(update={"detail": _FOLDERS.sub("", finding.detail)})


def _broken(error: Exception) -> Finding:
    return without_folders(Finding(status="failed", detail=f"{type(error).__name__}: {error}"[:600]))


def _rule(measured: Measured) -> str:
    return (
        f"allowed difference: 4 x noise ({measured.noise:.2g} nats a token, unsteered) + {measured.share:.1%} of the effect of "
        f"steering; the ten likeliest tokens are {measured.spread:.2g} nats apart"
    )
