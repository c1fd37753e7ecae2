"""Agreement with labels: the numbers, the file, the command."""

import json
from pathlib import Path

import numpy as np
import pytest
from cli_harness import runner
from fake_judge import RUBRIC, Fault, JudgeServer, completion, honest, judge_listening, rated_reply
from trait_client.judge.agreement import agreement
from trait_client.judge.labels import read_labels
from trait_client.judge.rubric import Rubric
from trait_client.results import ResultStore
from trait_core.errors import DatasetError
from trait_core.statistics import auc, spearman

ROOT = Path(__file__).resolve().parents[2]
LABELS = ROOT / "datasets" / "judge" / "labels.jsonl"


def array(*values):
    return np.array(values, np.float64)


def test_spearman_is_the_correlation_of_average_ranks():
    assert spearman(array(1, 2, 3, 4), array(10, 20, 30, 400)) == pytest.approx(1)
    assert spearman(array(1, 2, 3, 4), array(4, 3, 2, 1)) == pytest.approx(-1)
    # Ranks 0.5 0.5 2 3 and 0 2 1 3, about 1.5: (1.5 - 0.5 - 0.25 + 2.25) / sqrt(4.5 * 5)
    assert spearman(array(1, 1, 2, 3), array(1, 3, 2, 4)) == pytest.approx(3 / np.sqrt(22.5))
    assert spearman(array(1, 2, 3), array(5, 5, 5)) is None


def test_auc_counts_ties_half():
    assert auc(array(3, 2), array(1, 2)) == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert np.isnan(auc(array(1), array()))
    assert agreement([80.0], [3.0]).auc is None


def test_a_label_of_50_is_neither_high_nor_low():
    found = agreement([0, 50, 100, 100], [1, 99, 2, 3])
    assert (found.n, found.n_high, found.n_low, found.auc) == (4, 2, 1, 1.0)
    assert found.auc_interval is None


def test_chance_is_not_called_better_and_a_good_judge_is():
    generator = np.random.default_rng(3)
    labels = np.repeat([0.0, 100.0], 30)
    noise = agreement(labels, generator.normal(size=60))
    good = agreement(labels, labels + generator.normal(scale=40, size=60))
    assert noise.auc_interval[0] < 0.5 < noise.auc_interval[1]
    assert noise.verdict == "not distinguishable from chance"
    assert good.auc_interval[0] < good.auc < good.auc_interval[1]
    assert good.spearman_interval[0] < good.spearman < good.spearman_interval[1]
    assert good.verdict == "better than chance"
    assert agreement(labels, -labels).verdict == "worse than chance"
    assert agreement(labels, good_scores := list(labels)) == agreement(labels, good_scores)


def test_the_interval_of_the_auc_is_as_wide_as_theory_says():
    """Hanley & McNeil 1982: for exponential classes the standard error follows from AUC and n."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0.0, 100.0], 100)
    scores = np.concatenate([generator.exponential(1, 100), generator.exponential(3, 100)])
    found = agreement(labels, scores)
    a = found.auc
    variance = (a * (1 - a) + 99 * (a / (2 - a) - a * a) + 99 * (2 * a * a / (1 + a) - a * a)) / 1e4
    low, high = found.auc_interval
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.15)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ('{"trait": "a", "prompt": "p", "reply": "r"}', "label"),
        ('{"trait": "a", "prompt": "p", "reply": "r", "label": 101}', "label"),
        ('{"trait": "a", "prompt": "p", "reply": "r", "label": NaN}', "label"),
        ('{"trait": "A b", "prompt": "p", "reply": "r", "label": 1}', "trait"),
        ('{"trait": "a", "prompt": "p", "reply": "r", "label": 1, "lable": 1}', "lable"),
        ('{"trait": "a", "prompt": "p", "reply": "first", "label": 1}', "already labelled on line 1"),
    ],
)
def test_a_wrong_label_is_named_by_file_and_line(tmp_path, line, words):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"trait": "a", "prompt": "p", "reply": "first", "label": 1}\n' + line + "\n")
    with pytest.raises(DatasetError, match=words) as caught:
        read_labels(path)
    assert "labels.jsonl:2" in str(caught.value)


def test_the_labels_of_the_repository_are_enough_and_have_both_sides():
    labels = read_labels(LABELS)
    for trait in {label.trait for label in labels} - {"*"}:
        Rubric.load(ROOT / "datasets" / "traits", trait)
        values = [label.label for label in labels if label.trait == trait]
        assert min(sum(v > 50 for v in values), sum(v < 50 for v in values)) >= 8
    traits = [label.trait for label in labels if label.trait != "*"]
    assert len(traits) >= 60
    assert len(set(traits)) >= 3


def test_the_command_measures_stores_and_asks_nothing_twice(tmp_path, monkeypatch, capsys):
    place = tmp_path / "datasets" / "traits" / "style" / "shouting"
    place.mkdir(parents=True)
    (place / "definition.txt").write_text(RUBRIC)
    replies = [("LOUD %d" if i % 2 else "calm %d") % i for i in range(12)]
    lines = [{"trait": "shouting", "prompt": "p", "reply": r, "label": 100 * (i % 2)} for i, r in enumerate(replies)]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    monkeypatch.chdir(tmp_path)
    cli = runner(monkeypatch, capsys)
    with judge_listening(JudgeServer()) as judge:
        (tmp_path / "judge.toml").write_text(f'[judge]\nurl = "{judge.url}"\nmodel = "j"\nretries = 0\n')
        command = ["judge", "agreement", "--labels", "labels.jsonl", "--judge", "judge.toml", "--db", "r.duckdb"]
        judge.behave = lambda number, body: (
            Fault(500, b"") if rated_reply(body) in replies[:2] else honest(number, body)
        )
        code, stdout, _ = cli(*command, "--json")
        (found,) = json.loads(stdout)["traits"]
        assert (code, found["n_labels"], found["n"], found["n_high"], found["n_low"]) == (3, 12, 10, 5, 5)
        assert (found["auc"], found["auc_interval"], found["verdict"]) == (1.0, [1.0, 1.0], "better than chance")
        judge.behave = honest
        code, stdout, _ = cli(*command)
        assert (code, len(judge.bodies)) == (0, 14)
        assert "12 of 12" in stdout
        assert "better than chance" in stdout
        stored = "SELECT n, auc, spearman > 0.99, model, trait FROM judge_agreement JOIN judges USING (definition)"
        assert ResultStore(tmp_path / "r.duckdb").query(stored)[1] == [(12, 1.0, True, "j", "shouting")]
        judge.behave = lambda *_: completion("50")
        code, stdout, _ = cli(*command[:-2], "--json")
        (found,) = json.loads(stdout)["traits"]
        assert (code, found["auc"], found["spearman"], found["verdict"]) == (
            0,
            0.5,
            None,
            "not distinguishable from chance",
        )
    assert cli("judge", "agreement", "--labels", "labels.jsonl")[0] == 2


def test_without_a_file_the_replies_are_those_that_check_metrics_scores(tmp_path, monkeypatch, capsys):
    """They have no prompts, and the judge is shown none."""
    for trait in ("shouting", "singing"):
        place = tmp_path / "datasets" / "traits" / "style" / trait
        place.mkdir(parents=True)
        (place / "definition.txt").write_text(RUBRIC)
        lines = [
            {"text": f"LOUD {i} {trait.upper()}" if i % 2 else f"calm {i}", "shows": bool(i % 2)} for i in range(8)
        ]
        (place / "metric_check.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    monkeypatch.chdir(tmp_path)
    cli = runner(monkeypatch, capsys)
    with judge_listening(JudgeServer()) as judge:
        (tmp_path / "judge.toml").write_text(f'[judge]\nurl = "{judge.url}"\nmodel = "j"\nretries = 0\n')
        command = ["judge", "agreement", "--judge", "judge.toml", "--datasets", "datasets/traits", "--json"]
        code, stdout, _ = cli(*command, "--trait", "singing")
        (one,) = json.loads(stdout)["traits"]
        assert (code, one["trait"], one["n_high"], one["n_low"], one["auc"]) == (0, "singing", 4, 4, 1.0)
        assert not any("The user wrote" in body["messages"][0]["content"] for body in judge.bodies)
        code, stdout, _ = cli(*command)
        assert [each["trait"] for each in json.loads(stdout)["traits"]] == ["shouting", "singing"]
        code, _, stderr = cli(*command, "--trait", "whistling")
        assert (code, "whistling" in stderr) == (1, True)
        (tmp_path / "labels.jsonl").write_text('{"trait": "shouting", "reply": "LOUD", "label": 100}\n')
        code, _, stderr = cli(*command, "--labels", "labels.jsonl", "--trait", "singing")
        assert (code, "no label for singing: it has shouting" in stderr) == (1, True)
