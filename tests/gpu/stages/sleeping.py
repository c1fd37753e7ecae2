"""Sleep: an engine that slept steers as before, or the engine refuses to sleep."""

from collections.abc import Callable

from asking import CAPTURE, Answer, Request, Shape, configuration, error_of, gaps, prompts
from engines import Engine, EngineError, Kind
from stage import Context, Report, Skip, Stage, main
from tolerance import Tolerance

REFUSAL = ("not supported", "sleep")


def run(context: Context, report: Report) -> None:
    """Levels 1 and 2, each on an engine of its own: one that lost its buffers is of no further use."""
    if not context.cuda:
        raise Skip("vLLM's CPU engine does not sleep")
    for level in (1, 2):
        outcome = _outcome(context, report, level)
        report.row("sleep", level=level, outcome=outcome)
    report.figure = "; ".join(f"level {row['level']}: {row['outcome']}" for row in report.tables["sleep"])


def _outcome(context: Context, report: Report, level: int) -> str:
    with Engine(context, Kind(options={"dtype": "float32", "enable_sleep_mode": True})) as engine:
        if refused := _refused(lambda: engine.ready):
            return refused
        requests = _requests(engine.shape, "before")
        before = engine.generate(requests)
        refused = _refused(lambda: engine.call("sleep", level))
        engine.call("wake", not refused and level > 1)
        after = engine.generate(_requests(engine.shape, "after"))
    limit, gap = Tolerance.of("float32").logprob, gaps(before, after)
    report.check(gap.mean <= limit, f"after sleep of level {level} mean |delta logprob| is {gap.mean:.2g}")
    for answer in after:
        report.check(error_of(answer) is None, f"after sleep of level {level}: {error_of(answer)}")
    report.check(_counts(before) == _counts(after), f"after sleep of level {level} pools hold {_counts(after)}")
    return f"{refused or 'slept'}; {len(after)} requests as before, mean |delta logprob| {gap.mean:.2g}"


def _refused(attempt: Callable[[], object]) -> str:
    """The refusal's text; empty if it was allowed.

    Raises:
        EngineError: It failed for another reason.
    """
    try:
        attempt()
    except EngineError as error:
        if all(words in str(error).lower() for words in REFUSAL):
            return f"refused: {error}"[:300]
        raise
    return ""


def _requests(shape: Shape, name: str) -> list[Request]:
    texts = prompts(shape, [6, 8, 10, 12])
    return [
        Request(text, configuration(shape, f"{name}-{c}", c, capture=CAPTURE) if c else None)
        for c, text in enumerate(texts)
    ]


def _counts(answers: list[Answer]) -> list[list[int] | None]:
    return [answer.count for answer in answers]


STAGE = Stage(
    "sleeping",
    "An engine that slept (level 1, level 2) and woke steers as before, or refuses to sleep.",
    limit_s=120,
    run=run,
)

if __name__ == "__main__":
    main(STAGE)
