"""Intervals, geometry, the choice of a layer from steering, and what reaches the result database."""

import json

import duckdb
import numpy as np
import pytest
from trait_client.results import ResultStore
from trait_client.results.rows import CellRow, PromptRow, ScoreRow, TrialRow, VectorRow
from trait_core.errors import VectorFileError
from trait_core.statistics import auc, cohens_d
from trait_core.vectors.file import VectorFile
from trait_extraction.data.datasets import load_trait
from trait_extraction.data.split import Part, Split, split_scenarios, split_sides
from trait_extraction.fitting.evidence import layer_evidence
from trait_extraction.fitting.geometry import massive_dimensions
from trait_extraction.fitting.intervals import HeldOut, held_out_intervals
from trait_extraction.fitting.layer_choice import chosen_by, steered_layer
from trait_extraction.fitting.methods import METHODS
from trait_extraction.fitting.projections import projections_path, read_projections
from trait_extraction.pipeline import RunOptions, run
from trait_extraction.plan import PAST_SINKS, Settings
from trait_extraction.plan import RESPONSE as REPLY

RESPONSE = Settings(REPLY, splits=3)


def held_out(n, gap, seed, centre=0.0):
    rng = np.random.default_rng(seed)
    return HeldOut(rng.normal(gap / 2, 1, n), rng.normal(-gap / 2, 1, n), centre)


def test_the_interval_of_gaussians_holds_the_true_value_and_narrows_with_scenarios():
    """A gap of 1.5: AUC 0.856, accuracy 0.773 (tests of the point estimates have the formulas)."""
    widths = []
    for n in (15, 400):
        found = held_out_intervals([held_out(n, 1.5, s) for s in range(8)], np.random.default_rng(0))
        assert found.auc[0] < 0.856 < found.auc[1]
        assert found.accuracy[0] < 0.773 < found.accuracy[1]
        assert found.cohens_d[0] < 1.5 < found.cohens_d[1]
        widths.append([high - low for low, high in (found.auc, found.cohens_d)])
    assert (np.array(widths[1]) < np.array(widths[0]) / 3).all()


def test_the_interval_of_cohens_d_is_the_bootstraps_of_its_formula():
    """Weights of a multinomial sample give the same d as the drawn scenarios themselves."""
    split = held_out(12, 1.0, 3, centre=0.0)
    moved = HeldOut(split.positive * 50 + 900, split.negative * 50 + 900, 900.0)
    interval, same = (held_out_intervals([s], np.random.default_rng(5)).cohens_d for s in (split, moved))
    assert interval == pytest.approx(same)
    counts = np.random.default_rng(5).multinomial(12, np.full(12, 1 / 12), size=200)
    drawn = [cohens_d(np.repeat(split.positive, c), np.repeat(split.negative, c)) for c in counts]
    assert interval == pytest.approx(np.quantile(drawn, [0.025, 0.975]))


def test_without_spread_cohens_d_has_no_interval():
    constant = HeldOut(np.ones(5), np.zeros(5), 0.5)
    assert held_out_intervals([constant], np.random.default_rng(0)).cohens_d is None


def test_splits_that_disagree_widen_the_interval():
    same = held_out_intervals([held_out(200, 3, 0)] * 4, np.random.default_rng(0)).auc
    apart = held_out_intervals([held_out(200, gap, 0) for gap in (0, 1, 2, 3)], np.random.default_rng(0)).auc
    assert apart[1] - apart[0] > 5 * (same[1] - same[0])


def test_what_is_separated_everywhere_has_a_point_for_an_interval():
    split = HeldOut(np.arange(5.0) + 10, np.arange(5.0), 7.0)
    found = held_out_intervals([split], np.random.default_rng(0))
    assert (found.accuracy, found.auc) == ((1.0, 1.0), (1.0, 1.0))


def test_polarity_counts_pairs_and_not_sides():
    """Every positive lies 1 above its own negative, while the pairs lie far apart: the AUC is weak, the polarity 1."""
    negative = np.arange(0, 80, 10, dtype=np.float32)[:, None]
    split = Split(Part.of_pairs(np.arange(4)), Part.of_pairs(np.arange(4, 8)))
    found = layer_evidence(np.ones(1, np.float32), negative + 1, negative, split, 1.0)
    assert found.polarity == 1.0
    assert found.auc == (16 - 6) / 16
    upside_down = layer_evidence(-np.ones(1, np.float32), negative + 1, negative, split, 1.0)
    assert upside_down.polarity == 0.0


def test_massive_dimensions_are_named_with_their_part_of_the_squared_norm():
    activations = np.ones((20, 100), np.float32)
    activations[:, [70, 5, 30]] = [30.0, -20.0, 10.0]
    dimensions, share = massive_dimensions(activations)
    assert dimensions == [70, 5, 30]
    assert share == pytest.approx((900 + 400 + 100) / (900 + 400 + 100 + 97))


# ---- in the vector file


def test_every_layer_carries_intervals_cosines_and_massive_dimensions(trait_folder, gaussians, tmp_path):
    results = run(gaussians(), [(load_trait(trait_folder()), RESPONSE)], ["mean_diff", "pca"], tmp_path)
    mean_diff, pca = (VectorFile.load(r.path) for r in results)
    for layer, at in mean_diff.metadata.layers.items():
        assert at.auc_interval[0] <= at.auc <= at.auc_interval[1]
        assert at.accuracy_interval[0] <= at.accuracy <= at.accuracy_interval[1]
        assert at.cohens_d_interval[0] < at.cohens_d_interval[1]
        assert set(at.cosine_methods) == set(METHODS) - {"mean_diff"}
        both = float(mean_diff.directions[layer] @ pca.directions[layer])
        assert at.cosine_methods["pca"] == pytest.approx(both, abs=1e-6)
        assert pca.metadata.layers[layer].cosine_methods["mean_diff"] == pytest.approx(both, abs=1e-6)
        assert at.massive_dimensions[0] == 0
        assert 0.4 < at.massive_share < 1
        assert at.massive_share_of_direction > 0.7
    layers = mean_diff.metadata.layers
    assert layers[0].cosine_previous_layer is None
    expected = float(mean_diff.directions[3] @ mean_diff.directions[2])
    assert layers[3].cosine_previous_layer == pytest.approx(expected, abs=1e-6)


def test_a_file_does_not_depend_on_which_other_methods_were_asked_for(trait_folder, gaussians, tmp_path):
    dataset = load_trait(trait_folder())
    (alone,) = run(gaussians(), [(dataset, RESPONSE)], ["probe"], tmp_path / "a")
    _, beside, _ = run(gaussians(), [(dataset, RESPONSE)], ["random", "probe", "gradient"], tmp_path / "b")
    assert alone.sha256 == beside.sha256


def test_another_number_of_splits_makes_the_file_again_with_the_same_directions(trait_folder, gaussians, tmp_path):
    dataset = load_trait(trait_folder())
    (first,) = run(gaussians(gap=(0.8,) * 10), [(dataset, RESPONSE)], ["mean_diff"], tmp_path)
    more = Settings(REPLY, splits=6)
    (second,) = run(gaussians(gap=(0.8,) * 10), [(dataset, more)], ["mean_diff"], tmp_path)
    assert not second.reused
    for layer in range(10):
        np.testing.assert_array_equal(first.vector.directions[layer], second.vector.directions[layer])
    ours, theirs = (v.vector.metadata.layers.values() for v in (first, second))
    assert [(a.auc, a.cohens_d) for a in ours] == [(b.auc, b.cohens_d) for b in theirs]
    assert [a.auc_interval for a in ours] != [b.auc_interval for b in theirs]


# ---- the layer, from steering


def sweep(path, layer_deltas, *, model="toy", precision="float32", trait="warmth", control=0.0):
    """A result database as a sweep leaves it: a steered setting a layer, its delta on ten prompts, one control each."""
    prompts = [PromptRow(f"p{i}", f"prompt {i}") for i in range(10)]
    vector = "sha256:" + "0" * 64
    rows = [VectorRow(vector, trait, trait, "mean_diff", model, "c", 4, "{}"), *prompts]
    with ResultStore(path).writer() as writer:
        run_id = writer.start_run("test", "{}", 1)

        def add(name, kind, layer, value, control_of=None):
            steered = kind != "baseline"
            cell = f"{precision}.{name}"
            rows.append(
                CellRow(
                    cell_id=cell, setting_id=cell, baseline_id=f"{precision}.base", control_of=control_of, kind=kind,
                    trait=trait if steered else None, trait_sign=1 if steered else None,
                    trait_sha256=vector if steered else None, sha256=vector if steered else None,
                    method="mean_diff" if steered else None, layer=layer, coefficient=2.0 if steered else None,
                    unit="dose" if steered else None, operation="add" if steered else None,
                    scope="all" if steered else None, preserve_norm=False if steered else None, precision=precision,
                    adapter="", seed=0, system=None, max_tokens=8, temperature=0.0, top_p=1.0, model=model,
                    config_digest="c", chat_template_digest=None, dtype="float32", quantization=None, versions="{}",
                )
            )  # fmt: skip
            for i, prompt in enumerate(prompts):
                trial = f"{cell}.{i}"
                rows.append(
                    TrialRow(trial, cell, prompt.prompt_id, run_id, "done", "text", "stop", 1, 1, None, 0.1, None, NOW)
                )
                rows.append(ScoreRow(trial, trait, "lexical", value + i % 3, "d"))
                rows.append(ScoreRow(trial, "*", "coherence", 90.0, "d"))

        add("base", "baseline", None, 0.0)
        for layer, delta in layer_deltas.items():
            add(f"steered{layer}", "steered", layer, delta)
            add(f"control{layer}", "control", layer, control, control_of=f"{precision}.steered{layer}")
        writer.write(rows)
    return ResultStore(path)


NOW = duckdb.connect().execute("SELECT now()::TIMESTAMP").fetchone()[0]


def test_the_layer_that_steers_best_is_chosen_for_every_method_and_says_so(trait_folder, gaussians, tmp_path):
    results = sweep(tmp_path / "results.duckdb", {2: 20.0, 7: 60.0, 8: 40.0})
    jobs = [(load_trait(trait_folder()), RESPONSE)]
    extracted = run(gaussians(), jobs, ["mean_diff", "probe"], tmp_path / "v", RunOptions(results=results))
    assert [e.vector.metadata.chosen_layer for e in extracted] == [7, 7]
    because = extracted[0].vector.metadata.chosen_because
    assert because.startswith("By steering: the best coherent setting in results.duckdb is layer 7 with mean_diff")
    assert "+60 [60, 60] (n = 10, coherence 90, float32)" in because
    assert "3 layers swept" in because
    assert chosen_by(extracted[0].vector.metadata) == "steering"


def test_without_an_effect_the_evidence_chooses_and_says_so(trait_folder, gaussians, tmp_path):
    info, jobs = gaussians().info(), [(load_trait(trait_folder()), RESPONSE)]
    assert steered_layer(ResultStore(tmp_path / "absent.duckdb"), "warmth", info) is None
    within_control = sweep(tmp_path / "weak.duckdb", {7: 20.0}, control=30.0)
    assert steered_layer(within_control, "warmth", info) is None
    assert steered_layer(sweep(tmp_path / "other.duckdb", {7: 20.0}, model="another"), "warmth", info) is None
    assert steered_layer(sweep(tmp_path / "cold.duckdb", {7: 20.0}, trait="coldness"), "warmth", info) is None
    assert steered_layer(sweep(tmp_path / "deep.duckdb", {17: 20.0}), "warmth", info) is None
    (extracted,) = run(gaussians(), jobs, ["mean_diff"], tmp_path / "v", RunOptions(results=within_control))
    assert extracted.vector.metadata.chosen_layer == 5
    assert extracted.vector.metadata.chosen_because.startswith("By evidence, without steering results.")
    assert chosen_by(extracted.vector.metadata) == "evidence"


def test_the_services_own_precision_takes_precedence(gaussians, tmp_path):
    path = tmp_path / "results.duckdb"
    sweep(path, {3: 90.0}, precision="int8")
    results = sweep(path, {6: 40.0}, precision="float32")
    assert steered_layer(results, "warmth", gaussians().info())[0] == 6
    assert steered_layer(results, "warmth", gaussians(quantization="int8").info())[0] == 3


def test_an_existing_file_takes_the_layer_of_a_later_sweep_without_reading_the_model(trait_folder, gaussians, tmp_path):
    service, jobs = gaussians(), [(load_trait(trait_folder()), RESPONSE)]
    (before,) = run(service, jobs, ["mean_diff"], tmp_path / "v")
    results = sweep(tmp_path / "results.duckdb", {2: 20.0})
    (after,) = run(service, jobs, ["mean_diff"], tmp_path / "v", RunOptions(results=results))
    assert service.n_requests == 1
    assert (before.vector.metadata.chosen_layer, after.vector.metadata.chosen_layer, after.reused) == (5, 2, False)
    np.testing.assert_array_equal(before.vector.directions[2], VectorFile.load(after.path).directions[2])
    (again,) = run(service, jobs, ["mean_diff"], tmp_path / "v", RunOptions(results=results))
    assert (again.reused, again.sha256) == (True, after.sha256)


# ---- in the database


def test_evidence_and_cosines_are_stored_and_queried(trait_folder, gaussians, tmp_path):
    other = [[{"prompt": f"Why {i}?", "response": f"{word} then {i}."} for i in range(16)] for word in ("YES", "NO")]
    jobs = [(load_trait(f), RESPONSE) for f in (trait_folder(), trait_folder(*other, name="calm"))]
    results = ResultStore(tmp_path / "results.duckdb")
    extracted = run(gaussians(), jobs, ["mean_diff", "random"], tmp_path / "v", RunOptions(results=results))
    run(gaussians(), jobs, ["mean_diff", "random"], tmp_path / "v", RunOptions(results=results))
    _, rows, *_ = results.query(
        "SELECT trait, method, layer, chosen, auc, auc_low, auc_high, polarity, cosine_methods FROM vector_layers "
        "ORDER BY ALL"
    )
    assert len(rows) == 4 * 10
    at = {(r[0], r[1], r[2]): r for r in rows}
    meta = extracted[0].vector.metadata
    known = meta.layers[4]
    row = at["warmth", "mean_diff", 4]
    assert row[3:8] == (False, known.auc, *known.auc_interval, known.polarity)
    assert json.loads(row[8]) == pytest.approx(known.cosine_methods)
    chosen = {(r[0], r[1]): r[2] for r in rows if r[3]}
    metas = [e.vector.metadata for e in extracted]
    assert chosen == {(m.trait, m.method): m.chosen_layer for m in metas}
    _, cosines, *_ = results.query(
        "SELECT cosine FROM vector_cosines WHERE trait = 'warmth' AND method = 'mean_diff' AND other_trait = 'calm' "
        "AND other_method = 'mean_diff' AND layer = 4"
    )
    a, b = (e.vector.directions[4] for e in extracted if e.vector.metadata.method == "mean_diff")
    assert cosines == [(pytest.approx(float(a @ b), abs=1e-6),)]
    assert results.query("SELECT count(*) FROM cosines")[1] == [(6 * 10,)]


def test_a_vector_of_an_older_file_has_empty_columns(tmp_path):
    """Rows that older sweeps stored, without the newer fields, are in the view with empty columns."""
    results = sweep(tmp_path / "results.duckdb", {2: 20.0})
    metadata = json.dumps({"layers": {"3": {"separation": 1.0, "centre": 0.0, "residual_norm": 2.0}}})
    with results.writer() as writer:
        writer.write([VectorRow("sha256:1", "old", "old", "mean_diff", "toy", "c", 3, metadata)])
    _, rows, *_ = results.query("SELECT separation, auc_low, chosen FROM vector_layers WHERE trait = 'old'")
    assert rows == [(1.0, None, True)]


# ---- held-out projections


def test_projections_of_held_out_scenarios_are_beside_the_vector_and_give_its_auc(trait_folder, gaussians, tmp_path):
    jobs = [(load_trait(trait_folder()), RESPONSE)]
    (made,) = run(gaussians(gap=(0.4,) * 10), jobs, ["mean_diff"], tmp_path)
    kept = read_projections(made.path, made.vector.metadata)
    assert list(kept.scenarios) == list(split_scenarios(16, 0.25, 0).held_out.positive)
    for layer, at in made.vector.metadata.layers.items():
        positive, negative = kept.at(layer)
        assert auc(positive.astype(float), negative.astype(float)) == at.auc
        assert cohens_d(positive.astype(float), negative.astype(float)) == pytest.approx(at.cohens_d, rel=1e-4)


@pytest.fixture
def unpaired(trait_folder):
    """Raw texts, 21 on one side and 12 on the other."""
    return load_trait(
        trait_folder([f"YES {i}" for i in range(21)], [f"NO {i}" for i in range(12)], name="raw", suffix=".txt")
    )


def test_unpaired_sides_give_vectors_by_every_method_from_all_their_scenarios(unpaired, gaussians, tmp_path):
    service = gaussians()
    made = run(service, [(unpaired, Settings(PAST_SINKS, splits=3))], list(METHODS), tmp_path)
    for one in made:
        meta = one.vector.metadata
        at = meta.layers[meta.chosen_layer]
        assert (meta.n_positive, meta.n_negative, meta.n_held_out) == (21, 12, 5)
        assert meta.method_options["paired"] is False
        assert at.polarity == at.auc
        assert at.auc_interval[0] <= at.auc <= at.auc_interval[1]
        kept = read_projections(one.path, meta)
        positive, negative = (side.astype(float) for side in kept.at(meta.chosen_layer))
        assert (len(positive), len(negative), len(kept.negative_scenarios)) == (5, 3, 3)
        assert auc(positive, negative) == at.auc
        if meta.method in {"mean_diff", "pca"}:
            assert one.vector.directions[meta.chosen_layer][0] > 0.7, meta.method
    (again,) = run(service, [(unpaired, Settings(PAST_SINKS, splits=3))], ["pca"], tmp_path)
    assert again.reused
    assert again.vector.metadata.method_options["rows"] == "all differences of a positive and a negative"


def test_each_unpaired_side_is_drawn_by_itself_for_the_intervals():
    """The accuracy's interval is that of two independent shares, narrower than that of pairs that are right together."""
    right = np.array([1.0] * 15 + [-1.0] * 5)
    both = [HeldOut(right, -right, 0.0, paired=paired) for paired in (True, False)]
    together, apart = (held_out_intervals([one], np.random.default_rng(0)).accuracy for one in both)
    assert apart[1] - apart[0] < together[1] - together[0]
    uneven = held_out_intervals([HeldOut(right, -right[:8] * 3, 0.0, paired=False)], np.random.default_rng(0))
    assert uneven.accuracy[0] < uneven.accuracy[1] <= 1


def test_a_share_of_each_unpaired_side_is_held_out_and_no_prompt_is_on_both_parts():
    groups = [f"p{i % 20}" for i in range(100)], [f"p{i % 20}" for i in range(40)]
    split = split_sides(groups, 0.25, 3)
    assert (len(split.held_out.positive), len(split.held_out.negative)) == (25, 10)
    parts = [
        {groups[0][i] for i in part.positive} | {groups[1][i] for i in part.negative}
        for part in (split.train, split.held_out)
    ]
    assert parts[0].isdisjoint(parts[1])
    assert [len(split.train.positive), len(split.train.negative)] == [75, 30]
    lone = split_sides((["p"] * 12, ["p"] * 8), 0.25, 0)
    assert (len(lone.held_out.positive), len(lone.held_out.negative)) == (3, 2), "one prompt cannot be in one part"
    pairs = split_sides((["p"] * 12, ["p"] * 12), 0.25, 0)
    assert list(pairs.held_out.positive) == list(pairs.held_out.negative)


def test_projections_of_another_vector_are_not_taken_and_damaged_ones_are_an_error(trait_folder, gaussians, tmp_path):
    jobs = [(load_trait(trait_folder()), RESPONSE)]
    (made,) = run(gaussians(), jobs, ["mean_diff"], tmp_path)
    meta = made.vector.metadata
    assert read_projections(made.path, meta.model_copy(update={"seed": 9})) is None
    path = projections_path(made.path)
    data = path.read_bytes()
    path.write_bytes(data[:-4])
    with pytest.raises(VectorFileError, match="not a complete file of projections"):
        read_projections(made.path, meta)
    path.unlink()
    assert read_projections(made.path, meta) is None
