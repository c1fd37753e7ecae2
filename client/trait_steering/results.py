"""Results as data frames: one function for each kind of row, for pandas or polars, whichever is installed.

    from trait_steering.results import cells_df

    cells_df("results.duckdb").pivot_table("delta", "layer", "coefficient")

The database is only read, also while a sweep is writing to it. `where` is an SQL condition on the frame's columns: it is
applied before rows are loaded. Times are UTC; columns of JSON hold text.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, get_args

from trait_client.results import Frame, ResultStore
from trait_core.errors import InvalidRequestError

__all__ = ["cells_df", "searches_df", "tokens_df", "trials_df"]


class _Rows(NamedTuple):
    """A kind of row: a query, and the columns that order it."""

    query: str
    order: str


_CELLS = _Rows("SELECT * FROM cell_summary", "trait, method, layer, coefficient, measure, setting_id")

_TRIALS = _Rows(
    """
SELECT t.trial_id, t.cell_id, c.setting_id, c.kind, c.control_of, c.trait, c.method, c.layer, c.layers, c.coefficient, c.unit,
       c.operation, c.scope, coalesce(c.hook_point, CASE WHEN c.kind <> 'baseline' THEN 'resid_post' END) AS hook_point, c.gate,
       t.acted_prompt, t.acted_generated, c.precision, c.adapter, c.seed, c.model, r.experiment, t.run_id,
       t.prompt_id, p.text AS prompt, t.reasoning, t.text AS reply, b.text AS baseline_reply,
       s.lexical, d.lexical_baseline, s.judge, d.judge_baseline, d.projection, d.projection_baseline,
       s.coherence, s.judge_coherence, s.relevance, s.perplexity, s.distinct3,
       t.status, t.error, t.finish_reason, t.n_prompt, t.n_generated, t.seconds, t.finished_at
FROM trials t
JOIN cells c ON c.cell_id = t.cell_id
JOIN prompts p ON p.prompt_id = t.prompt_id
JOIN runs r ON r.run_id = t.run_id
LEFT JOIN trials b ON c.kind <> 'baseline' AND b.cell_id = c.baseline_id AND b.prompt_id = t.prompt_id
LEFT JOIN (
    SELECT x.trial_id,
           max(x.value) FILTER (x.name = 'lexical' AND x.trait = y.trait) AS lexical,
           max(x.value) FILTER (x.name = 'judge' AND x.trait = y.trait) AS judge,
           max(x.value) FILTER (x.name = 'coherence') AS coherence,
           max(x.value) FILTER (x.name = 'judge_coherence') AS judge_coherence,
           max(x.value) FILTER (x.name = 'relevance') AS relevance,
           max(x.value) FILTER (x.name = 'perplexity') AS perplexity,
           max(x.value) FILTER (x.name = 'distinct3') AS distinct3
    FROM scores x
    JOIN trials USING (trial_id)
    JOIN cells y USING (cell_id)
    GROUP BY x.trial_id
) s ON s.trial_id = t.trial_id
LEFT JOIN (
    SELECT trial_id,
           max(baseline) FILTER (measure = 'lexical') AS lexical_baseline,
           max(baseline) FILTER (measure = 'judge') AS judge_baseline,
           max(steered) FILTER (measure = 'projection') AS projection,
           max(baseline) FILTER (measure = 'projection') AS projection_baseline
    FROM trial_deltas
    GROUP BY trial_id
) d ON d.trial_id = t.trial_id
""",
    "trait, method, layer, coefficient, kind, cell_id, prompt, trial_id",
)

_TOKENS = _Rows("SELECT * FROM token_projections", "prompt_set, prompt_id, reading_id, vector, layer, position")

_SEARCHES = _Rows(
    """
SELECT s.*, v.name AS vector, v.method, v.model
FROM searches s
JOIN vectors v ON v.sha256 = s.trait_sha256
""",
    "found_at, trait, trait_sha256",
)


def cells_df(db: str | Path, *, where: str | None = None, frame: Frame | None = None) -> Any:
    """Steered settings, a row for each setting and measure: the columns of the view `cell_summary`.

    `n`, `baseline`, `steered`, `delta` with its interval, the range of the random directions, coherence, `verdict`.

    Args:
        db: Path of the result database.
        where: Condition, such as `trait = 'refusal' and measure = 'lexical' and coherence >= 75`.
        frame: `pandas` or `polars`; None takes pandas, or else polars.

    Returns:
        A `pandas.DataFrame` or a `polars.DataFrame`.

    Raises:
        ImportError: The library is not installed (of None: neither is).
        InvalidRequestError: `where` or `frame` is wrong.
        ResultsError: The database does not exist or cannot be read.
    """
    return _read(db, _CELLS, where, frame)


def trials_df(db: str | Path, *, where: str | None = None, frame: Frame | None = None) -> Any:
    """Replies, a row each: its cell, prompt, text, the baseline's text on the same prompt, and scores.

    Controls and baselines are rows too (column `kind`). A baseline belongs to no trait: its `lexical`, `judge` and
    `projection` are in the rows of the replies that are compared with it, as `lexical_baseline` and so on.

    Arguments, result and errors are those of `cells_df`.
    """
    return _read(db, _TRIALS, where, frame)


def tokens_df(db: str | Path, *, where: str | None = None, frame: Frame | None = None) -> Any:
    """Tokens of prompt sets (`trait-client project`), a row for each token, vector and layer: the view `token_projections`.

    A large database has millions of them: give `where`, such as `vector = 'refusal' and part = 'response'`.

    Arguments, result and errors are those of `cells_df`.
    """
    return _read(db, _TOKENS, where, frame)


def searches_df(db: str | Path, *, where: str | None = None, frame: Frame | None = None) -> Any:
    """Coefficient searches (`trait-client search`), a row for each search of a vector: the best setting that it found.

    Arguments, result and errors are those of `cells_df`.
    """
    return _read(db, _SEARCHES, where, frame)


def _read(db: str | Path, rows: _Rows, where: str | None, frame: Frame | None) -> Any:
    library = _library(frame)
    condition = "" if where is None else f"WHERE ({where}\n)"
    sql = f"SELECT * FROM ({rows.query}) {condition} ORDER BY {rows.order}"  # noqa: S608 - the file is only read
    with ResultStore(db).reader() as reader:
        return reader.frame(sql, library)


def _library(frame: Frame | None) -> Frame:
    known: tuple[Frame, ...] = get_args(Frame)
    if frame is not None and frame not in known:
        raise InvalidRequestError(f"frame is {frame!r}: it may be {' or '.join(known)}, or None for either", "frame")
    wanted = known if frame is None else (frame,)
    for library in wanted:
        if find_spec(library) is not None:
            return library
    raise ImportError(
        f"a data frame needs {' or '.join(wanted)}, which the package does not bring: pip install {wanted[0]}",
        name=wanted[0],
    )
