"""Verify a sound engine and engines that are really broken, all in one process: `python verify_driver.py MODEL DTYPE CASE...`.

Prints JSON: for each engine its exit code and the status of every check. A broken engine is a real one that is asked for
something else than what was asked of it, or whose layers have lost the operation.
"""

import json
import os
import sys
from dataclasses import replace

from trait_service.engine.monitor_columns import MonitorColumns

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

FEW = (
    "steering takes effect",
    "operations and scopes",
    "hook points",
    "gates",
    "neighbours untouched",
    "capture",
    "monitoring",
)


class Unsteered:
    """Leaves out every steering term; captures still work."""

    def __init__(self, engine) -> None:
        self._engine = engine

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def run(self, asks):
        return self._engine.run([replace(ask, terms=[]) for ask in asks])


class OneLayerOff(Unsteered):
    """Steers the layer before the one asked for."""

    def run(self, asks):
        return self._engine.run([replace(ask, terms=[self._moved(term) for term in ask.terms]) for ask in asks])

    def _moved(self, term):
        return term.model_copy(update={"layer": (term.layer - 1) % self.n_layers})


class Ungated(Unsteered):
    """Steers whatever the condition is."""

    def run(self, asks):
        return self._engine.run(
            [replace(ask, terms=[term.model_copy(update={"when": None}) for term in ask.terms]) for ask in asks]
        )


class GatesOneLayerOff(Unsteered):
    """Reads every gate on the layer before the one asked for."""

    def run(self, asks):
        return self._engine.run([replace(ask, terms=[self._moved(term) for term in ask.terms]) for ask in asks])

    def _moved(self, term):
        if term.when is None:
            return term
        return term.model_copy(update={"when": term.when.model_copy(update={"layer": term.when.layer - 1})})


class BehindTheBlock(Unsteered):
    """Steers the stream behind the block wherever it is asked to steer."""

    def run(self, asks):
        return self._engine.run(
            [replace(ask, terms=[term.model_copy(update={"at": "resid_post"}) for term in ask.terms]) for ask in asks]
        )


class MonitorsOneLayerOff(Unsteered):
    """Projects the stream of the layer before the one asked for."""

    def run(self, asks):
        return self._engine.run([ask if ask.monitor is None else self._moved(ask) for ask in asks])

    def _moved(self, ask):
        columns = [
            {"layer": (int(layer) - 1) % self.n_layers, "direction": direction, "cosine": bool(cosine)}
            for layer, direction, cosine in zip(
                ask.monitor.columns.layer, ask.monitor.columns.directions, ask.monitor.columns.cosine, strict=True
            )
        ]
        return replace(ask, monitor=ask.monitor.model_copy(update={"columns": MonitorColumns.of(columns)}))


class Leaking(Unsteered):
    """Also steers the request that follows a steered one in the batch."""

    def run(self, asks):
        leaked = [ask if ask.terms or i == 0 else replace(ask, terms=asks[i - 1].terms) for i, ask in enumerate(asks)]
        return self._engine.run(leaked)


def without_operation(engine):
    """Take the operation out of every layer of the loaded model; there is no way back, so such cases come last."""

    def clear(model):
        return sum(bool(module._forward_hooks) and module._forward_hooks.clear() is None for module in model.modules())

    (n_cleared,) = engine._llm.apply_model(clear)
    assert n_cleared == engine.n_layers * len(engine.hook_points)
    return engine


def main(model: str, dtype: str, *cases: str) -> None:
    from trait_service.engine.settings import EngineSettings
    from trait_service.verify.command import _subject
    from trait_service.verify.judging import precision_of
    from trait_service.verify.probe import ProbeEngine
    from trait_service.verify.reference import NoReferenceError, Reference
    from trait_service.verify.report import CHECKS, verify_engine

    engine = ProbeEngine(model, dtype, EngineSettings(), cuda=False, eager=True)
    reference = Reference(model, engine.n_layers)  # raises where memory is short: the cases compare with it
    nothing = NoReferenceError("it does not fit")
    known = {
        "sound": (lambda: engine, reference, tuple(CHECKS)),
        "sound, nothing to compare with": (lambda: engine, nothing, FEW),
        "unsteered": (lambda: Unsteered(engine), reference, FEW),
        "one layer off": (lambda: OneLayerOff(engine), reference, FEW),
        "ungated": (lambda: Ungated(engine), reference, FEW),
        "gates of another layer": (lambda: GatesOneLayerOff(engine), reference, FEW),
        "behind the block": (lambda: BehindTheBlock(engine), reference, FEW),
        "monitors another layer": (lambda: MonitorsOneLayerOff(engine), reference, FEW),
        "leaking": (lambda: Leaking(engine), reference, FEW),
        "unsteered, nothing to compare with": (lambda: Unsteered(engine), nothing, tuple(CHECKS)),
        "operation taken out": (lambda: without_operation(engine), reference, tuple(CHECKS)),
        "operation taken out, nothing to compare with": (lambda: engine, nothing, tuple(CHECKS)),
    }
    verified = {}
    for name in cases:
        made, compared, checks = known[name]
        report = verify_engine(
            made(),
            compared,
            precision_of(dtype, quantised=False),
            quick=True,
            subject=_subject(model, engine, cuda=False, eager=True),
            say=lambda _: None,
            checks={check: CHECKS[check] for check in checks},
        )
        print(report.model_dump_json(indent=1), file=sys.stderr)
        found = {check: finding.status for check, finding in report.checks.items()}
        verified[name] = {"exit_code": report.exit_code, **found}
    print(json.dumps(verified))


if __name__ == "__main__":
    main(*sys.argv[1:])
