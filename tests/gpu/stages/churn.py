"""Churn: 256 configurations of 200 steps each, requests joining and leaving in every step, each equal to its solo run.

Under asynchronous scheduling the host prepares a step while the device still works on the last one: rows, positions and
pools that were overwritten too early would steer a request by its neighbour's vector. Before every step one configuration
joins until all are in, and a visitor joins whose end is an abort three steps later; configurations end one after another.

How answers are compared: the engine runs in float32, in which a batch changes log-probabilities by 1e-5 or so, and every
configuration's answer is compared with the same request alone in an engine like it. Where a reply chose between two
tokens that are as good as equal, both log-probabilities are compared and the reply's rest is not (`asking.Gaps`); the
share that was compared is reported, and has a lower bound. A step steered wrongly moves log-probabilities by 1e-1.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from asking import CAPTURE, Answer, Gaps, Request, Shape, configuration, error_of, prompts
from engines import Engine, Kind, engines_of
from stage import Context, Report, Stage, main
from tolerance import Tolerance

VISIT_STEPS = 3
LEAST_SHARE = 0.9
SPARE_S = 10


def run(context: Context, report: Report) -> None:
    """One engine runs them all together; it and further ones then run each alone."""
    n, n_steps = context.pick(cuda=(256, 200), cpu=(6, 12))
    kind = Kind(options={"dtype": "float32"})
    kinds = {str(e): kind for e in range(context.pick(cuda=4, cpu=1))}
    with engines_of(context, kinds) as started:
        engines = list(started.values())
        shape = engines[0].shape
        asked = configurations(shape, n, n_steps)
        together = engines[0].call("stepwise", [*asked, *visitors(shape, n + n_steps)])[:n]
        stats = engines[0].call("stats")
        alone = _alone(context, engines, asked)
        report.row("engine", **engines[0].ready)
        report.check(engines[0].ready["asynchronous"] or not context.cuda, "the engine schedules synchronously")
    found, limit = Gaps(), Tolerance.of("float32").logprob
    for c, answer in alone.items():
        _compare(report, c, asked[c], together[c], answer, found)
    report.row(
        "together against alone",
        configurations=n,
        steps=n_steps,
        **{
            "compared alone": len(alone),
            "mean": found.mean,
            "largest": found.largest,
            "tokens compared": found.share,
            "requests left in the engine": stats["live_requests"],
        },
    )
    report.check(len(alone) == n, f"time was up after {len(alone)} of {n} solo runs")
    report.check(found.share >= LEAST_SHARE, f"only {found.share:.0%} of the tokens could be compared")
    worst = max(Gaps().add(together[c], answer).mean for c, answer in alone.items())
    report.check(worst <= limit, f"mean |delta logprob| of one configuration is {worst:.2g}, allowed {limit:g}")
    report.figure = (
        f"{len(alone)} of {n} configurations over {n_steps} steps like alone: mean |delta logprob| {worst:.2g} in the worst, "
        f"{found.share:.0%} of the tokens compared, asynchronous: {report.tables['engine'][0]['asynchronous']}"
    )


def configurations(shape: Shape, n: int, n_steps: int) -> list[Request]:
    """`n` requests, no two alike; one joins a step. Every eighth one is captured."""
    texts = prompts(shape, [3 + c % 20 for c in range(n)])
    made = []
    for c in range(n):
        further: dict[str, Any] = {"capture": CAPTURE} if c % 8 == 0 else {}
        made.append(Request(texts[c], configuration(shape, f"c{c}", c, **further), n_steps, joins_at=c))
    return made


def visitors(shape: Shape, n_steps: int) -> list[Request]:
    """One request a step that is aborted three steps later; every third one is plain."""
    texts = prompts(shape, [2 + v % 5 for v in range(n_steps)], seed=1)
    return [
        Request(
            texts[v],
            configuration(shape, f"v{v}", 3 * v + 1) if v % 3 else None,
            max_tokens=64,
            joins_at=v,
            leaves_at=v + VISIT_STEPS,
        )
        for v in range(n_steps)
    ]


def _alone(context: Context, engines: list[Engine], asked: list[Request]) -> dict[int, Answer]:
    """Each request in a batch of its own, spread over the engines, until the time is nearly up."""

    def share(e: int) -> dict[int, Answer]:
        found = {}
        for c in range(e, len(asked), len(engines)):
            if context.left_s < SPARE_S:
                break
            (found[c],) = engines[e].generate([asked[c]])
        return found

    with ThreadPoolExecutor(len(engines)) as pool:
        parts = list(pool.map(share, range(len(engines))))
    return {c: answer for part in parts for c, answer in sorted(part.items())}


def _compare(report: Report, c: int, request: Request, together: Answer, alone: Answer, found: Gaps) -> None:
    for answer in (together, alone):
        report.check(error_of(answer) is None, f"configuration {c}: {error_of(answer)}")
        report.check(
            len(answer.token_ids) == request.max_tokens,
            f"configuration {c} has {len(answer.token_ids)} tokens, not {request.max_tokens}",
        )
    counted = [(answer.report.steered_prompt, answer.report.steered_generated) for answer in (together, alone)]
    report.check(counted[0] == counted[1], f"configuration {c}: positions steered {counted[0]}, alone {counted[1]}")
    report.check(together.count == alone.count, f"configuration {c}: pools of {together.count}, alone {alone.count}")
    found.add(together, alone)


STAGE = Stage(
    "churn",
    "256 configurations of 200 steps each, requests joining and leaving in every step: each equal to its solo run.",
    limit_s=180,
    run=run,
)

if __name__ == "__main__":
    main(STAGE)
