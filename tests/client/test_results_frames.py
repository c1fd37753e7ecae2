"""`trait_steering.results`: a result database as data frames of pandas and polars, and what is said without either."""

import json
import subprocess
import sys

import pytest
from dashboard_fixtures import COEFFICIENTS, LAYERS, N_PROMPTS, build, note, prompt_text, steered_text, vector_row
from frame_libraries import has, python_with_frames
from trait_client.results.rows import SearchRow, utc_now
from trait_core.errors import InvalidRequestError
from trait_steering.results import cells_df

N_READINGS = 3

SUMMARY = """
import json
from trait_steering import results

library, db = sys.argv[1:]
frames = {
    "cells": results.cells_df(db, frame=library, where="trait = 'refusal' and precision = 'float32' -- and no other"),
    "trials": results.trials_df(db, frame=library, where="method = 'probe' or kind = 'baseline'"),
    "tokens": results.tokens_df(db, frame=library, where="prompt_id = 'q00000' and vector = 'refusal.mean_diff'"),
    "searches": results.searches_df(db, frame=library),
    "all trials": results.trials_df(db, frame=library, where=None),
}
rows = {}
for name, frame in frames.items():
    assert type(frame).__module__.split(".")[0] == library, type(frame)
    rows[name] = frame.to_dicts() if library == "polars" else frame.to_dict("records")
default = type(results.searches_df(db)).__module__.split(".")[0]
empty = results.tokens_df(db, frame=library, where="false")
types = {name: str(empty[name].dtype).lower() for name in ("position", "layer", "value")}
print(json.dumps({"rows": rows, "types": types, "default": default, "columns": list(empty.columns)}, default=str))
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """The dashboard's known database, with one coefficient search."""
    store = build(tmp_path_factory.mktemp("frames") / "r.duckdb", N_READINGS)
    with store.writer() as writer:
        run = writer.start_run("search warmth", "{}", 0)
        vector, setting = vector_row("warmth"), "warmth-mean_diff-13-1.5-float32"
        found = SearchRow(
            run, "warmth", vector.sha256, setting, 13, 1.5, "dose", "lexical", 4, 11.5, 46.5, 35.0, 34.0, 36.0, 72.5,
            70.0, 24, "effect", utc_now(),
        )  # fmt: skip
        writer.write([found])
        writer.finish_run(run, "ok")
    return store


@pytest.fixture(scope="module", params=["pandas", "polars"])
def read(request, database, tmp_path_factory):
    """The database as a library shows it: rows of each frame, types, and the library that is taken if none is named."""
    if not has(request.param):
        pytest.skip(f"{request.param} is not installed (TRAIT_TEST_FRAMES may name a folder that has it)")
    text = python_with_frames(SUMMARY, request.param, database.path, folder=tmp_path_factory.mktemp("run"))
    return json.loads(text)


def test_cells_are_the_rows_of_the_view(read, database):
    sql = (
        "select setting_id, measure, delta from cell_summary where trait = 'refusal' and precision = 'float32' "
        "order by trait, method, layer, coefficient, measure, setting_id"
    )
    cells = read["rows"]["cells"]
    got = [(row["setting_id"], row["measure"], pytest.approx(row["delta"])) for row in cells]
    assert database.query(sql).rows == got
    assert len(cells) == 2 * len(LAYERS) * len(COEFFICIENTS) * 2  # methods, and two measures


def test_a_trial_stands_beside_its_prompt_its_baseline_and_its_scores(read):
    wanted = "refusal-probe-13-3.0-float32/1"
    (trial,) = [row for row in read["rows"]["trials"] if row["trial_id"] == wanted]
    assert trial["reply"] == steered_text("refusal", 13, 3.0, 1)
    assert (trial["prompt"], trial["baseline_reply"][:16]) == (prompt_text(1), "baseline reply 1")
    assert (trial["lexical"], trial["lexical_baseline"]) == (76.0, 10.0)
    assert (trial["projection"], trial["projection_baseline"]) == (7.6, 1.0)
    assert (trial["coherence"], trial["perplexity"]) == (50.0, 32.0)
    thought = [row for row in read["rows"]["all trials"] if row["reasoning"] == row["reasoning"] and row["reasoning"]]
    assert {(row["kind"], row["trial_id"].rpartition("/")[2]) for row in thought} == {("steered", "2")}
    assert (trial["kind"], trial["experiment"], trial["n_generated"]) == ("steered", "known", 5)


def test_every_trial_is_there_once_and_a_baseline_belongs_to_no_trait(read, database):
    trials = read["rows"]["all trials"]
    ((n,),) = database.query("select count(*) from trials").rows
    assert len({row["trial_id"] for row in trials}) == len(trials) == n
    baselines = [row for row in trials if row["kind"] == "baseline"]
    assert len(baselines) == 2 * N_PROMPTS
    for row in baselines:
        assert row["coherence"] == 95.0
        for empty in ("trait", "lexical", "lexical_baseline", "baseline_reply"):
            assert row[empty] is None or row[empty] != row[empty], empty  # NaN in pandas


def test_tokens_have_their_projections_and_the_prompts_metadata(read):
    tokens = read["rows"]["tokens"]
    assert [row["position"] for row in tokens] == list(range(17))
    assert [row["part"] for row in tokens] == ["prompt"] * 8 + ["response"] * 9
    assert [row["value"] for row in tokens] == [-3000.0] + [0.0] * 6 + [
        10.0
    ] * 10  # the last prompt position is the reply's
    assert json.loads(tokens[0]["metadata"]) == note(0)


def test_searches_name_their_vector(read):
    (search,) = read["rows"]["searches"]
    assert (search["vector"], search["trait"], search["layer"]) == ("warmth.mean_diff", "warmth", 13)
    assert (search["coefficient"], search["delta"]) == (1.5, 35.0)
    assert search["found_at"].startswith("20")


def test_an_empty_frame_keeps_its_columns_and_types(read):
    assert read["types"] == {"position": "int64", "layer": "int32", "value": "float32"}
    assert "prompt_set" in read["columns"]


def test_pandas_takes_precedence_where_no_library_is_named(read):
    assert read["default"] == ("pandas" if has("pandas") else "polars")


def test_a_column_that_does_not_exist_is_said(database, tmp_path):
    if not has("pandas"):
        pytest.skip("pandas is not installed")
    code = """
from trait_steering import InvalidRequestError, results
try:
    results.cells_df(sys.argv[1], where="koefficient = 3")
except InvalidRequestError as error:
    print(error)
"""
    said = python_with_frames(code, database.path, folder=tmp_path)
    assert 'Referenced column "koefficient" not found' in said
    assert "coefficient" in said.partition("Candidate")[2]


def test_another_library_is_refused(database):
    with pytest.raises(InvalidRequestError, match="frame is 'numpy': it may be pandas or polars, or None for either"):
        cells_df(database.path, frame="numpy")


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (None, "a data frame needs pandas or polars, which the package does not bring: pip install pandas"),
        ("polars", "a data frame needs polars, which the package does not bring: pip install polars"),
    ],
)
def test_without_the_library_the_error_says_what_to_install(database, frame, says):
    script = (
        "import sys\n"
        "sys.modules |= {'pandas': None, 'polars': None}  # as if neither were installed\n"
        "import trait_steering.results as results\n"
        f"results.trials_df(sys.argv[1], frame={frame!r})"
    )
    done = subprocess.run([sys.executable, "-c", script, database.path], capture_output=True, text=True, check=False)
    assert done.stderr.strip().splitlines()[-1] == f"ImportError: {says}"
