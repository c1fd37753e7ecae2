"""Graphs: the same requests, eager and out of CUDA graphs (PIECEWISE and FULL), give the same log-probabilities.

3, 5, 17 and 300 requests are not among the sizes of captured graphs, so that padded rows take part. Requests come in pairs of one
prompt: one plain, one steered with a configuration of its own, a part of them captured. In float32 the tolerance is
tight; in the card's 16-bit dtype, in which models are served, it is wider, and the plain neighbours' difference stands
beside the steered ones'. Attention in float32 is another kernel than in 16 bits.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from asking import CAPTURE, Answer, Request, Shape, configuration, error_of, gaps, prompts
from engines import CAPTURE_SIZES, Engine, Kind, engines_of, side_by_side
from stage import Context, Report, Stage, main
from tolerance import Tolerance

N_TOKENS = 8


def run(context: Context, report: Report) -> None:
    """One engine a mode, all modes of a dtype side by side."""
    sizes = context.pick(cuda=(3, 5, 17, 300), cpu=(3, 5))
    for dtype in context.pick(cuda=("float32", context.machine.half), cpu=("float32",)):
        with engines_of(context, _modes(context, dtype)) as modes:
            _compare(report, dtype, modes, sizes)
    rows = report.tables["against eager"]
    worst = max(rows, key=lambda row: row["steered, mean"])
    report.figure = (
        f"{len(rows)} batches like eager: mean |delta logprob| {worst['steered, mean']:.2g} at most ({worst['dtype']}), "
        f"capture counts exact"
    )


def _modes(context: Context, dtype: str) -> dict[str, Kind]:
    eager = Kind(options={"dtype": dtype, "enforce_eager": True})
    if not context.cuda:  # traced as on a GPU, and run without a compiler
        return {"eager": eager, "traced": Kind(options={"enforce_eager": False}, environment={"VLLM_CPU_CI_ENV": "1"})}
    return {
        "eager": eager,
        **{
            mode: Kind(
                options={
                    "dtype": dtype,
                    "compilation_config": {"cudagraph_mode": mode, "cudagraph_capture_sizes": CAPTURE_SIZES},
                }
            )
            for mode in ("PIECEWISE", "FULL")
        },
    }


def _compare(report: Report, dtype: str, modes: dict[str, Engine], sizes: Sequence[int]) -> None:
    tolerance = Tolerance.of(dtype)
    shape = modes["eager"].shape
    batches = {n: batch(shape, n) for n in sizes}
    answered = side_by_side(
        list(modes.values()), lambda engine: {n: engine.generate(requests) for n, requests in batches.items()}
    )
    for name, engine in modes.items():
        report.row("engines", mode=name, **engine.ready)
    eager, *others = [dict(zip(modes, answered, strict=True))[name] for name in modes]
    for n, requests in batches.items():
        _check_counts(report, f"eager, {dtype}, {n} requests", requests, eager[n])
        _check_effect(report, f"eager, {dtype}, {n} requests", requests, eager[n], tolerance.effect)
    for name, answers in zip(list(modes)[1:], others, strict=True):
        for n, requests in batches.items():
            label = f"{name}, {dtype}, {n} requests"
            _check_counts(report, label, requests, answers[n])
            plain, steered = (
                [i for i in range(n) if (requests[i].spec is None) == is_plain] for is_plain in (True, False)
            )
            of_plain, of_steered = (
                gaps([eager[n][i] for i in w], [answers[n][i] for i in w]) for w in (plain, steered)
            )
            captured = _largest_error(eager[n], answers[n])
            report.row(
                "against eager",
                dtype=dtype,
                mode=name,
                requests=n,
                **{
                    "plain, mean": of_plain.mean,
                    "steered, mean": of_steered.mean,
                    "steered, largest": of_steered.largest,
                    "tokens compared": of_steered.share,
                    "captured means, relative": captured,
                },
            )
            worst = max(of_plain.mean, of_steered.mean)
            report.check(
                worst <= tolerance.logprob, f"{label}: mean |delta logprob| {worst:.2g} over {tolerance.logprob:g}"
            )
            report.check(captured <= tolerance.capture, f"{label}: captured means differ by {captured:.2g}")


def batch(shape: Shape, n: int) -> list[Request]:
    """`n` requests: plain and steered by turns, both of a pair with one prompt; every second steered one is captured too."""
    made, texts = [], prompts(shape, [5 + 3 * (i // 2 % 7) for i in range(n)], seed=n)
    for i in range(n):
        further: dict[str, Any] = {"capture": CAPTURE} if i % 4 == 1 else {}
        asked = configuration(shape, f"g{n}-{i}", i // 2 % 256, **further) if i % 2 else None
        made.append(Request(texts[i - i % 2], asked, N_TOKENS))
    return made


def _check_counts(report: Report, label: str, requests: list[Request], answers: list[Answer]) -> None:
    """Every pool holds every position, once."""
    for request, answer in zip(requests, answers, strict=True):
        report.check(error_of(answer) is None, f"{label}: {error_of(answer)}")
        expected = len(request.token_ids) + len(answer.token_ids) - 1
        if answer.count is not None:
            report.check(answer.count == [expected], f"{label}: a pool holds {answer.count} positions, not {expected}")


def _check_effect(report: Report, label: str, requests: list[Request], answers: list[Answer], least: float) -> None:
    """At least nine of ten steered requests answer otherwise than their plain neighbours: else nothing was compared."""
    pairs = [(answers[i - 1], answers[i]) for i in range(1, len(requests), 2)]
    moved = sum(gaps([one], [other]).largest > least for one, other in pairs)
    report.check(moved >= 0.9 * len(pairs), f"{label}: steering moved {moved} of {len(pairs)} requests")


def _largest_error(ones: list[Answer], others: list[Answer]) -> float:
    """Length of the largest difference of two captured means, relative to the mean."""
    errors = [
        float((np.linalg.norm(a.mean - b.mean, axis=-1) / np.linalg.norm(a.mean, axis=-1)).max())
        for a, b in zip(ones, others, strict=True)
        if a.mean is not None and b.mean is not None
    ]
    return max(errors, default=0.0)


STAGE = Stage(
    "graphs",
    "3, 5, 17 and 300 requests, half of them steered: eager, PIECEWISE and FULL graphs give the same log-probabilities.",
    limit_s=200,
    run=run,
)

if __name__ == "__main__":
    main(STAGE)
