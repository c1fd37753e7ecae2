"""Ends: a bound that stops, a request that fails, exact counts after a stop token; on the V2 runner and on V1 alike.

All cases run in one batch, beside plain and steered neighbours that must be as they are without them. The engine runs in
float32. Asynchronous scheduling computes one position past an end before it knows of the end: nothing may count it.
"""

from typing import Any

import numpy as np
from asking import CAPTURE, Answer, Request, Shape, configuration, error_of, gaps, monitored, prompts, spec
from engines import Engine, Kind, engines_of
from stage import Context, Report, Stage, main
from tolerance import Tolerance

N_TOKENS = 16
MISSING = "0" * 64
"""Digest of a direction that no bank holds."""


def run(context: Context, report: Report) -> None:
    """Both runners side by side, then their answers against each other."""
    limit = Tolerance.of("float32").logprob
    runners = context.pick(cuda={"V2": Kind(options={"dtype": "float32"})}, cpu={})
    runners |= {"V1": Kind(v1=True, synchronous=True, options={"dtype": "float32"})}  # as `--runner v1` serves
    answers = {}
    with engines_of(context, runners) as engines:
        for name, engine in engines.items():
            shape = engine.shape
            report.row("engines", runner=name, **{"class": engine.ready["runner"], **_without_runner(engine.ready)})
            report.check(
                not context.cuda or engine.ready["runner"].endswith("V2") == (name == "V2"),
                f"{name} was asked for, the engine runs {engine.ready['runner']}",
            )
            answers[name] = _cases(report, engine, shape, name, limit)
    if len(answers) == 2:
        alike = gaps(*answers.values())
        report.row("V1 against V2", mean=alike.mean, largest=alike.largest, **{"tokens compared": alike.share})
        report.check(alike.mean <= limit, f"V1 and V2 differ by {alike.mean:.2g}, allowed {limit:g}")
    rows = report.tables["cases"]
    passed = sum(row["result"] == "ok" for row in rows)
    report.figure = f"{passed} of {len(rows)} cases as they should be, on {' and '.join(runners)}"


def _without_runner(ready: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in ready.items() if name != "runner"}


def _cases(report: Report, engine: Engine, shape: Shape, runner: str, limit: float) -> list[Answer]:
    """Run the cases on one engine; returns the answers, in order."""
    texts = prompts(shape, [7, 9, 5, 11, 6])
    bound, stopped, failing, steered, plain = texts
    # First without any end: which projections and tokens there will be.
    calm = engine.generate(
        [
            Request(bound, monitored(shape, "calm-bound", 0, 1), N_TOKENS),
            Request(stopped, _everything(shape, "calm-stop"), N_TOKENS),
            Request(steered, configuration(shape, "calm", 7), N_TOKENS),
            Request(plain, None, N_TOKENS),
        ]
    )
    hit, crossed = _crossing(calm[0].projections[:, 0])
    at = _last_first_occurrence(calm[1].token_ids)
    got = engine.generate(
        [
            Request(bound, monitored(shape, "bound", 0, 1, stop=True, **crossed), N_TOKENS),
            Request(stopped, _everything(shape, "stop"), N_TOKENS, stop_tokens=(calm[1].token_ids[at],)),
            Request(failing, spec("fail", terms=[{"layer": 0, "direction": MISSING, "value": 1.0}]), N_TOKENS),
            Request(steered, configuration(shape, "steered", 7), N_TOKENS),
            Request(plain, None, N_TOKENS),
        ]
    )
    findings = {
        "a bound that stops, end token ignored": _bound(calm[0], got[0], len(bound), hit),
        "counts after a stop token": _counts(got[1], calm[1], len(stopped), at),
        "a request that fails": _failing(got[2]),
        "a steered neighbour": _same(got[3], calm[2], limit),
        "a plain neighbour": _same(got[4], calm[3], limit),
    }
    for case, problem in findings.items():
        report.row("cases", runner=runner, case=case, result=problem or "ok")
        report.check(not problem, f"{runner}, {case}: {problem}")
    return got


def _everything(shape: Shape, key: str) -> str:
    """One term from the first position on, a pool over all positions, one direction monitored from the first one on."""
    term = {"layer": shape.n_layers // 2, "direction": shape.bank[3], "value": shape.dose(shape.n_layers // 2)}
    column = {"layer": shape.n_layers - 1, "direction": shape.bank[4]}
    return spec(key, terms=[term], capture=CAPTURE, monitor={"columns": [column], "prompt": True})


def _crossing(values: np.ndarray) -> tuple[int, dict[str, float]]:
    """A bound that a row from the second one on crosses first, and by a wide margin: the row, and the bound."""
    found = []
    for name, sign in (("above", 1.0), ("below", -1.0)):
        rising = sign * values
        before = np.maximum.accumulate(rising)[:-1]
        at = int(np.argmax(rising[1:] - before))
        margin = rising[1 + at] - before[at]
        found.append((margin, 1 + at, {name: float(sign * (before[at] + margin / 2))}))
    _, row, bound = max(found, key=lambda each: each[0])
    return row, bound


def _last_first_occurrence(token_ids: list[int]) -> int:
    """The latest place at which a token stands for the first time: as a stop token it ends the reply there."""
    return max(i for i, token in enumerate(token_ids) if token not in token_ids[:i])


def _bound(calm: Answer, got: Answer, n_prompt: int, hit: int) -> str:
    """Row `hit` of the projections is of the position that would make token `hit`: the reply has the tokens before it."""
    if not got.report.bound_hits:
        return f"no bound was crossed; error {error_of(got)}"
    position = got.report.bound_hits[0].position
    if position != n_prompt - 1 + hit:
        return f"crossed at position {position}, not {n_prompt - 1 + hit}"
    kept = got.token_ids[:hit]
    if kept != calm.token_ids[:hit] or len(got.token_ids) != hit + 1:  # the end token stands behind them
        return f"{len(got.token_ids) - 1} tokens are kept, not the first {hit} of the reply without a bound"
    return "" if got.finish_reason == "stop" else f"it ended by {got.finish_reason!r}"


def _counts(got: Answer, calm: Answer, n_prompt: int, at: int) -> str:
    n_positions = n_prompt + at  # the stop token itself never goes through the model
    found = {
        "tokens": len(got.token_ids) - 1,
        "steered": got.report.steered_prompt + got.report.steered_generated,
        "pooled": got.count[0],
        "projected": len(got.projections),
    }
    expected = {"tokens": at, "steered": n_positions, "pooled": n_positions, "projected": n_positions}
    if found != expected:
        return f"{found}, expected {expected}"
    if got.finish_reason != "stop":
        return f"it ended by {got.finish_reason!r}"
    error = float(np.abs(got.projections - calm.projections[:n_positions]).max() / np.abs(calm.projections).max())
    return "" if error < 1e-3 else f"projections differ by {error:.2g} (relative) from those of the longer reply"


def _failing(got: Answer) -> str:
    error = error_of(got)
    if not error or MISSING[:12] not in error:
        return f"it was to fail for the missing direction: {error}"
    return "" if len(got.token_ids) <= 1 and got.finish_reason == "stop" else f"it has {len(got.token_ids)} tokens"


def _same(got: Answer, calm: Answer, limit: float) -> str:
    if error_of(got):
        return str(error_of(got))
    gap = gaps([got], [calm]).mean
    return "" if gap <= limit else f"mean |delta logprob| {gap:.2g}, allowed {limit:g}"


STAGE = Stage(
    "ends",
    "A bound that stops a request that ignores end tokens, a failing request, exact counts after a stop token; V1 and V2.",
    limit_s=120,
    run=run,
)

if __name__ == "__main__":
    main(STAGE)
