"""The views, on rows whose answers are known."""

import time

import numpy as np
import pytest
from trait_client.results import ResultStore
from trait_client.results.rows import CellRow, ProjectionRow, PromptRow, ScoreRow, TrialRow, VectorRow, utc_now
from trait_core import statistics

N_PROMPTS = 6
BASELINE = [10.0, 0.0, 20.0, 5.0, 5.0, 20.0]
VECTOR, RANDOM = "sha256:real", "sha256:random"


class Results:
    """Builds a database cell by cell; `lexical` and `coherence` are values by prompt."""

    def __init__(self, path):
        self.store = ResultStore(path)
        self.rows = [PromptRow(f"p{i}", f"prompt {i}") for i in range(N_PROMPTS)]
        self.rows += [VectorRow(sha, "v", "t", "m", "model", "c", 1, "{}") for sha in (VECTOR, RANDOM)]
        self.cell("base", "baseline", BASELINE)

    def cell(self, name, kind, lexical, coherence=90.0, trait="t", seed=0, baseline="base", **values):
        steered = {
            "trait": trait, "trait_sign": 1, "trait_sha256": VECTOR, "sha256": RANDOM if kind == "control" else VECTOR,
            "method": "mean_diff", "layer": 1, "coefficient": 2.0, "unit": "dose", "operation": "add", "scope": "all",
            "preserve_norm": False,
        }  # fmt: skip
        fields = dict.fromkeys(CellRow.__dataclass_fields__.keys() - {"table"}) | {
            "cell_id": name, "setting_id": name, "baseline_id": name if kind == "baseline" else baseline, "kind": kind,
            "precision": "float32", "adapter": "none", "seed": seed, "max_tokens": 8, "temperature": 0.0,
            "top_p": 1.0, "model": "m", "config_digest": "c", "dtype": "float32", "versions": "{}",
        }  # fmt: skip
        self.rows.append(CellRow(**(fields | (steered if kind != "baseline" else {}) | values)))
        for i, value in enumerate(lexical):
            trial_id = f"{name}-{i}"
            self.rows.append(
                TrialRow(trial_id, name, f"p{i}", "run", "done", "x", "stop", 1, 1, None, 0.1, None, utc_now())
            )
            self.rows.append(ScoreRow(trial_id, "*", "coherence", coherence, "1"))
            if value is not None:
                self.rows.append(ScoreRow(trial_id, trait, "lexical", value, "1"))
            self.rows.append(ProjectionRow(trial_id, VECTOR, 1, "response[:]", 2.0 if kind == "steered" else 0.5))
        return self

    def judged(self, name, values, trait="t", definition="j1", score="judge"):
        """The judge's scores of a cell; None is pending."""
        for i, value in enumerate(values):
            mode, error = ("pending", "busy") if value is None else ("logprobs", None)
            self.rows.append(ScoreRow(f"{name}-{i}", trait, score, value, definition, mode, error))
        return self

    def write(self):
        with self.store.writer() as writer:
            if not writer.query("SELECT 1 FROM runs"):
                writer.query("INSERT INTO runs VALUES ('run', 'x', '{}', now()::TIMESTAMP, NULL, 'ok', 1, NULL)")
            writer.write(self.rows)
        return self

    def one(self, sql):
        columns, rows, *_ = self.store.query(sql)
        assert len(rows) == 1, rows
        return dict(zip(columns, rows[0], strict=True))

    def all(self, sql):
        return self.store.query(sql)[1]


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "r.duckdb")


def shifted(by):
    return [value + by for value in BASELINE]


def test_a_delta_has_n_sd_and_the_interval_of_the_python_statistics(results):
    steered = [90.0, 10.0, 70.0, 100.0, 55.0, 30.0]
    row = results.cell("s", "steered", steered).write().one("SELECT * FROM cell_summary WHERE measure = 'lexical'")
    prompts = [f"p{i}" for i in range(N_PROMPTS)]
    expected = statistics.paired_delta(
        dict(zip(prompts, steered, strict=True)), dict(zip(prompts, BASELINE, strict=True))
    )
    assert (row["n"], row["baseline"], row["steered"]) == (6, expected.baseline, pytest.approx(expected.steered))
    assert (row["delta"], row["sd"]) == (pytest.approx(expected.delta), pytest.approx(expected.sd))
    assert (row["ci_low"], row["ci_high"]) == (pytest.approx(expected.interval[0]), pytest.approx(expected.interval[1]))


@pytest.mark.parametrize("n", [2, 3, 12, 28, 200])
def test_sql_and_python_draw_the_same_bootstrap(results, n):
    deltas = np.random.default_rng(n).normal(size=n).tolist()
    ((interval,),) = results.write().all(f"SELECT bootstrap_interval({deltas}::DOUBLE[], bootstrap_picks({n}))")
    assert interval == pytest.approx(statistics.bootstrap_interval(deltas))


def test_sql_and_python_agree_on_cohens_d(results):
    sql = "SELECT cohens_d(a, b) FROM (VALUES (1.0, 0.0), (2.0, 2.0), (3.0, NULL), (4.0, NULL)) x(a, b)"
    assert results.write().all(sql)[0][0] == pytest.approx(statistics.cohens_d([1, 2, 3, 4], [0, 2]))


def test_the_interval_follows_rows_that_are_added(results):
    results.cell("s", "steered", shifted(10)[:3]).write()
    assert results.one("SELECT n, ci_high FROM cell_summary WHERE measure = 'lexical'") == {"n": 3, "ci_high": 10.0}
    results.rows = []
    results.cell("s", "steered", [*shifted(10)[:3], 100.0]).write()
    row = results.one("SELECT n, ci_high FROM cell_summary WHERE measure = 'lexical'")
    assert row["n"] == 4
    assert row["ci_high"] > 10


def test_seeds_are_averaged_within_a_prompt_so_that_n_counts_prompts(results):
    results.cell("base1", "baseline", shifted(2), seed=1)
    results.cell("s0", "steered", shifted(10), setting_id="s")
    results.cell("s1", "steered", shifted(22), setting_id="s", seed=1, baseline="base1")
    row = results.write().one("SELECT * FROM cell_summary WHERE measure = 'lexical'")
    assert (row["n"], row["seeds"], row["delta"], row["sd"]) == (6, 2, 15.0, 0.0)


def test_an_effect_lies_beyond_the_random_directions(results):
    for name, by in (("inside", 10), ("beyond", 30)):
        results.cell(name, "steered", shifted(by))
        results.cell(f"{name}-r0", "control", shifted(-5), control_of=name)
        results.cell(f"{name}-r1", "control", shifted(20), control_of=name)
    results.cell("uncontrolled", "steered", shifted(50))
    sql = (
        "SELECT setting_id, n_controls, control_low, control_high, effect FROM cell_summary "
        "WHERE measure = 'lexical' ORDER BY 1"
    )
    assert results.write().all(sql) == [
        ("beyond", 2, -5.0, 20.0, True),
        ("inside", 2, -5.0, 20.0, False),
        ("uncontrolled", None, None, None, None),
    ]


def test_best_coherent_is_the_largest_delta_over_the_bar(results):
    results.cell("small", "steered", shifted(10), coefficient=1.0, coherence=99.0)
    results.cell("large", "steered", shifted(40), coefficient=2.0, coherence=75.0)
    results.cell("broken", "steered", shifted(80), coefficient=3.0, coherence=74.9)
    results.write()
    row = results.one("SELECT * FROM best_coherent")
    assert (row["coefficient"], row["delta"], row["coherence"], row["measure"]) == (2.0, 40.0, 75.0, "lexical")
    assert list(row)[:15] == [
        "trait", "method", "layer", "coefficient", "unit", "n", "baseline", "steered", "delta", "ci_low", "ci_high",
        "coherence", "control_low", "control_high", "effect",
    ]  # fmt: skip
    assert results.one("SELECT coefficient FROM best_coherent_at(90)") == {"coefficient": 1.0}
    assert results.all("SELECT * FROM best_coherent_at(100)") == []


def test_the_best_goes_in_the_traits_direction(results):
    results.cell("up", "steered", shifted(40), trait_sign=-1, coefficient=1.0)
    results.cell("down", "steered", shifted(-9), trait_sign=-1, coefficient=2.0)
    assert results.write().one("SELECT delta FROM best_coherent") == {"delta": -9.0}


def test_a_trait_without_a_metric_is_measured_by_its_projection(results):
    results.cell("s", "steered", [None] * N_PROMPTS, trait="u")
    row = results.write().one("SELECT measure, baseline, steered, delta FROM best_coherent")
    assert row == {"measure": "projection", "baseline": 0.5, "steered": 2.0, "delta": 1.5}


def test_a_trait_without_a_metric_is_measured_by_the_judge_where_there_is_one(results):
    results.cell("s", "steered", [None] * N_PROMPTS, trait="u")
    results.judged("base", BASELINE, "u").judged("s", shifted(5), "u").write()
    assert results.one("SELECT measure, delta FROM best_coherent") == {"measure": "judge", "delta": 5.0}


def test_the_judge_stands_beside_the_lexical_metric(results):
    results.cell("s", "steered", shifted(40))
    results.judged("base", BASELINE).judged("s", [90.0, 0.0, 30.0, 5.0, 45.0, 20.0])
    results.judged("base", [80.0] * 6, "*", score="judge_coherence")
    results.judged("s", [60.0] * 6, "*", score="judge_coherence").write()
    row = results.one("SELECT * FROM cell_summary WHERE measure = 'judge'")
    expected = statistics.paired_delta(dict(enumerate([90.0, 0.0, 30.0, 5.0, 45.0, 20.0])), dict(enumerate(BASELINE)))
    assert (row["n"], row["delta"], row["sd"]) == (6, pytest.approx(expected.delta), pytest.approx(expected.sd))
    assert (row["ci_low"], row["ci_high"]) == (pytest.approx(expected.interval[0]), pytest.approx(expected.interval[1]))
    assert (row["judge_coherence"], row["coherence"]) == (60.0, 90.0)
    fell = results.one("SELECT delta, trait_delta FROM cell_summary WHERE measure = 'judge_coherence'")
    assert fell == {"delta": -20.0, "trait_delta": -20.0}
    assert results.one("SELECT measure, delta FROM best_coherent") == {"measure": "lexical", "delta": 40.0}
    assert results.all("SELECT * FROM best_judged_at(70)") == []
    assert results.one("SELECT coherence FROM best_judged_at(60)") == {"coherence": 90.0}


def test_pending_scores_do_not_enter_and_are_counted(results):
    results.cell("s", "steered", shifted(40))
    results.judged("base", BASELINE).judged("s", [*shifted(5)[:4], None, None]).write()
    row = results.one("SELECT n, delta, n_pending FROM cell_summary WHERE measure = 'judge'")
    assert row == {"n": 4, "delta": 5.0, "n_pending": 2}
    assert results.all("SELECT DISTINCT name, error, prompt FROM pending_scores ORDER BY prompt") == [
        ("judge", "busy", "prompt 4"),
        ("judge", "busy", "prompt 5"),
    ]


def test_scores_of_two_judges_are_not_subtracted(results):
    results.cell("s", "steered", shifted(40))
    results.judged("base", BASELINE, definition="old").judged("s", shifted(5), definition="new").write()
    assert results.all("SELECT * FROM cell_summary WHERE measure = 'judge'") == []


def test_the_verdict_says_what_a_delta_is(results):
    unsure = [value + by for value, by in zip(BASELINE, (9, -8, 3, -5, 6, -4), strict=True)]
    for name, values in (("none", unsure), ("beyond", shifted(30)), ("inside", shifted(10)), ("fell", shifted(-30))):
        results.cell(name, "steered", values)
        results.cell(f"{name}-r0", "control", shifted(-20), control_of=name)
        results.cell(f"{name}-r1", "control", shifted(20), control_of=name)
    results.cell("uncontrolled", "steered", shifted(50)).cell("one", "steered", shifted(50)[:1]).write()
    assert results.all("SELECT setting_id, verdict FROM cell_summary WHERE measure = 'lexical' ORDER BY 1") == [
        ("beyond", "effect"),
        ("fell", "effect"),
        ("inside", "no more than random directions"),
        ("none", "not distinguishable from 0"),
        ("one", "one prompt says nothing"),
        ("uncontrolled", "differs from 0, no control"),
    ]


def test_methods_are_compared_by_their_best_coherent_setting(results):
    results.cell("m1", "steered", shifted(10))
    results.cell("m2", "steered", shifted(20), layer=1, coefficient=3.0)
    results.cell("p", "steered", shifted(30), method="probe")
    assert results.write().all("SELECT method, place, delta FROM method_comparison") == [
        ("probe", 1, 30.0),
        ("mean_diff", 2, 20.0),
    ]


def test_precisions_are_compared_setting_by_setting(results):
    results.cell("full", "steered", shifted(30))
    results.cell("base8", "baseline", BASELINE, precision="int8")
    results.cell("int8", "steered", shifted(12), precision="int8", baseline="base8")
    results.cell("alone", "steered", shifted(12), coefficient=9.0)
    row = results.write().one("SELECT reference, precision, reference_delta, delta, difference FROM precision_delta")
    assert row == {
        "reference": "float32", "precision": "int8", "reference_delta": 30.0, "delta": 12.0, "difference": -18.0,
    }  # fmt: skip


def test_failed_trials_count_and_do_not_enter_the_mean(results):
    results.cell("s", "steered", shifted(10)[:5])
    results.rows.append(TrialRow("f", "s", "p5", "run", "failed", None, None, None, None, None, 0.1, "boom", utc_now()))
    row = results.write().one("SELECT n, n_failed FROM cell_summary WHERE measure = 'lexical'")
    assert row == {"n": 5, "n_failed": 1}


def test_hundreds_of_settings_are_summarised_in_a_moment(results):
    rng = np.random.default_rng(0)
    for i in range(200):
        results.cell(f"s{i}", "steered", (rng.random(N_PROMPTS) * 100).tolist(), coefficient=float(i))
    results.write()
    started = time.perf_counter()
    assert len(results.all("SELECT * FROM cell_summary")) == 400
    assert time.perf_counter() - started < 5
