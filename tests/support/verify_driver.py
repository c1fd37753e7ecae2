"""Verify a sound engine and engines that are really broken, all in one process: `python verify_driver.py MODEL`.

Prints JSON: for each engine its exit code and the status of every check. A broken engine is a real one that is asked for
something else than what was asked of it.
"""

import json
import os
import sys
from dataclasses import replace

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"


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


class Leaking(Unsteered):
    """Also steers the request that follows a steered one in the batch."""

    def run(self, asks):
        leaked = [ask if ask.terms or i == 0 else replace(ask, terms=asks[i - 1].terms) for i, ask in enumerate(asks)]
        return self._engine.run(leaked)


def main(model: str) -> None:
    from trait_service.engine.settings import EngineSettings
    from trait_service.verify.bench import Tolerance
    from trait_service.verify.probe import ProbeEngine
    from trait_service.verify.reference import NoReferenceError, reference_or_why_not
    from trait_service.verify.report import CHECKS, verify_engine

    engine = ProbeEngine(model, "float32", EngineSettings(), cuda=False, eager=True)
    reference = reference_or_why_not(model, engine.n_layers)
    names = ("steering takes effect", "operations and scopes", "neighbours untouched", "capture")
    verified = {}
    for name, under_test, compared in (
        ("sound, nothing to compare with", engine, NoReferenceError("it does not fit")),
        ("unsteered", Unsteered(engine), reference),
        ("one layer off", OneLayerOff(engine), reference),
        ("leaking", Leaking(engine), reference),
    ):
        report = verify_engine(
            under_test,
            compared,
            Tolerance.of("float32"),
            quick=True,
            subject={"dtype": "float32"},
            say=lambda _: None,
            checks={check: CHECKS[check] for check in names},
        )
        found = {check: finding.status for check, finding in report.findings.items()}
        verified[name] = {"exit_code": report.exit_code, **found}
    print(json.dumps(verified))


if __name__ == "__main__":
    main(*sys.argv[1:])
