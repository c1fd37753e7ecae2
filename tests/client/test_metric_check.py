"""The metrics against replies that were not used to write them, and the dates and digests of what studies measure with."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from cli_harness import runner
from trait_client.cli.check_metrics import table_csv
from trait_client.judge.labels import LabelledReply, read_labels
from trait_client.scoring.evaluation import EvaluationSpec
from trait_client.scoring.frozen import changes, digests, read_frozen
from trait_client.scoring.metric_check import METRIC_CHECK, check_by_labels, check_metric, read_check
from trait_core.errors import DatasetError
from trait_core.traits import trait_places

ROOT = Path(__file__).resolve().parents[2]
DATASETS = ROOT / "datasets" / "traits"
LABELS = ROOT / "datasets" / "judge" / "labels.jsonl"
TABLES = ROOT / "experiments" / "metric_check"
PLACES = {place.name: place.folder for place in trait_places(DATASETS)}
MEASURED = [name for name in PLACES if EvaluationSpec.load(DATASETS, name).metric is not None]

LOUD = {"kind": "uppercase_share"}
REPLIES = [("ALL LOUD", True), ("LOUD, mostly quiet words", True), ("quiet", False), ("QUITE a quiet one", False)]


def trait(folder, replies=REPLIES, **steering):
    """A trait in a folder of traits; returns the folder of traits."""
    place = folder / "traits" / "style" / "shouting"
    place.mkdir(parents=True, exist_ok=True)
    (place / "steering.json").write_text(json.dumps({"questions": ["Hello?"], "metric": LOUD} | steering))
    lines = [json.dumps({"text": text, "shows": shows}) for text, shows in replies]
    (place / METRIC_CHECK).write_text("\n".join(lines) + "\n")
    return folder / "traits"


def test_a_metric_is_measured_by_the_pairs_it_puts_in_order(tmp_path):
    check = check_metric(trait(tmp_path), "shouting")
    assert (check.kind, check.agreement.auc) == ("uppercase_share", 0.75)  # three of four pairs
    assert (check.n_above(shows=True), check.n_above(shows=False)) == (1, 0)
    assert [reply.text for reply in check.missed] == ["LOUD, mostly quiet words"]
    assert check.scores(shows=False)[0] == 0


def test_a_trait_that_lowers_its_metric_is_measured_upside_down(tmp_path):
    quiet = [(text, not shows) for text, shows in REPLIES]
    check = check_metric(trait(tmp_path, quiet, direction="negative"), "shouting")
    assert (check.agreement.auc, check.scores(shows=True)[0], check.n_above(shows=True)) == (0.75, 100, 2)


def test_a_score_of_exactly_50_is_on_nobodys_side(tmp_path):
    check = check_metric(trait(tmp_path, [("Aa", True), ("Bb", False), ("CC", True), ("dd", False)]), "shouting")
    assert [reply.text for reply in check.missed] == ["Aa", "Bb"]
    assert (check.n_above(shows=True), check.n_above(shows=False)) == (1, 0)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (['{"text": "a", "shows": 1}'], ":1: shows"),
        (['{"text": " ", "shows": true}'], ":1: text"),
        (['{"text": "a", "shows": true, "why": "b"}'], ":1: why"),
        (['{"text": "a", "shows": true}', '{"text": "a", "shows": false}'], ":2: the same reply is already on line 1"),
        (['{"text": "a", "shows": true}', '{"text": "b", "shows": true}'], "at least two that do and two that do not"),
        (["{"], "not JSON"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path, lines, words):
    path = tmp_path / METRIC_CHECK
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DatasetError, match=words):
        read_check(path)


def test_a_trait_without_metric_or_replies_says_what_is_missing(tmp_path):
    root = trait(tmp_path, metric=None)
    with pytest.raises(DatasetError, match="has no metric to check"):
        check_metric(root, "shouting")
    (trait(tmp_path) / "style" / "shouting" / METRIC_CHECK).unlink()
    with pytest.raises(DatasetError, match="write one reply on each line"):
        check_metric(root, "shouting")


def test_labels_of_a_judge_are_scored_too_without_those_of_50(tmp_path):
    root = trait(tmp_path)
    labels = [
        LabelledReply(trait=name, prompt="p", reply=reply, label=label)
        for name, reply, label in [
            ("shouting", "LOUD", 75),
            ("shouting", "Half LOUD", 50),
            ("shouting", "no", 0),
            ("*", "x", 0),
        ]
    ]
    (check,) = check_by_labels(root, labels)
    assert [(reply.text, reply.shows, reply.score) for reply in check.replies] == [
        ("LOUD", True, 100),
        ("no", False, 0),
    ]


def test_the_command_prints_stores_and_warns(tmp_path, monkeypatch, capsys):
    root = trait(tmp_path)
    cli = runner(monkeypatch, capsys)
    command = ["check-metrics", "--datasets", str(root)]
    code, stdout, stderr = cli(*command, "--missed", "--table", str(tmp_path / "t.csv"))
    assert (code, stderr) == (0, "")
    assert "shouting\tuppercase_share\t2/2\t0.75\t" in stdout
    assert "shouting, shows the trait, score 20: LOUD, mostly quiet words" in stdout
    (row,) = csv.DictReader((tmp_path / "t.csv").read_text().splitlines())
    assert (row["trait"], row["auc"], row["hits"], row["false_alarms"]) == ("shouting", "0.75", "1", "0")
    (tmp_path / "frozen.json").write_text("{}\n")
    code, stdout, stderr = cli(*command, "--json", "--missed")
    assert (code, json.loads(stdout)[0]["missed"][0]["score"]) == (0, 20)
    assert "frozen.json does not hold this version of the metric" in " ".join(stderr.split())
    (tmp_path / "labels.jsonl").write_text('{"trait": "*", "prompt": "p", "reply": "r", "label": 1}\n')
    assert cli(*command, "--labels", str(tmp_path / "labels.jsonl"))[0] != 0
    (root / "style" / "shouting" / METRIC_CHECK).unlink()
    code, _, stderr = cli(*command)
    assert code != 0
    assert f"no trait has {METRIC_CHECK}" in " ".join(stderr.split())


# ---- the traits of this repository


@pytest.mark.parametrize("name", MEASURED)
def test_every_metric_has_thirty_replies_of_both_kinds_that_are_nowhere_else(name):
    replies = read_check(PLACES[name] / METRIC_CHECK)
    n_shows = sum(reply.shows for reply in replies)
    assert min(n_shows, len(replies) - n_shows) >= 30
    files = [path for path in PLACES[name].iterdir() if path.name != METRIC_CHECK]
    known = "\n".join(path.read_text() for path in [*files, LABELS])
    spelt = [json.dumps(reply.text, ensure_ascii=ascii_only)[1:-1] for reply in replies for ascii_only in (True, False)]
    assert [text for text in spelt if f'"{text}"' in known] == []


def test_the_committed_tables_follow_from_the_committed_files():
    by_trait = [check_metric(DATASETS, name) for name in MEASURED]
    assert (TABLES / "by_trait.csv").read_text() == table_csv(by_trait)
    assert (TABLES / "by_label.csv").read_text() == table_csv(check_by_labels(DATASETS, read_labels(LABELS)))


def test_questions_metrics_and_checks_are_those_of_frozen_json():
    frozen = read_frozen(ROOT / "datasets" / "frozen.json")
    assert changes(DATASETS, frozen, list(PLACES)) == []
    assert frozen.keys() == PLACES.keys()


def frozen_copy(folder):
    """A copy of one trait, and the dates and digests of the repository."""
    shutil.copytree(PLACES["refusal"], folder / "traits" / "alignment" / "refusal")
    return folder / "traits", read_frozen(ROOT / "datasets" / "frozen.json")


def test_a_changed_question_asks_for_a_new_date_and_says_that_older_studies_do_not_hold(tmp_path):
    root, frozen = frozen_copy(tmp_path)
    assert changes(root, frozen, ["refusal"]) == []
    path = root / "alignment" / "refusal" / "steering.json"
    steering = json.loads(path.read_text())
    steering["questions"][0] += " Please."
    path.write_text(json.dumps(steering))
    (said,) = changes(root, frozen, ["refusal"])
    assert said.startswith("refusal: questions: frozen.json does not hold this version")
    assert digests(path.parent)["questions"] in said
    assert said.endswith("studies made before that date do not hold for it")
    steering["metric"]["patterns"].pop()
    path.write_text(json.dumps(steering))
    assert [sentence.split(": ")[1] for sentence in changes(root, frozen, ["refusal"])] == ["questions", "metric"]


def test_a_metric_that_is_younger_than_its_check_needs_new_replies(tmp_path):
    root, frozen = frozen_copy(tmp_path)
    own = dict(frozen["refusal"])
    own["metric"] = own["metric"].model_copy(update={"date": own["metric_check"].date.replace(year=2027)})
    (said,) = changes(root, {"refusal": own}, ["refusal"])
    assert "is younger than the replies" in said
    (root / "alignment" / "refusal" / METRIC_CHECK).unlink()
    said = changes(root, frozen, ["refusal"])
    assert said == [
        "refusal: metric_check: the replies that check the metric are gone: remove the entry from frozen.json"
    ]


@pytest.mark.parametrize(
    "entry", [{"date": "yesterday", "sha256": "0" * 64}, {"date": "2026-01-01", "sha256": "0"}, {}]
)
def test_a_malformed_frozen_file_is_refused(tmp_path, entry):
    (tmp_path / "frozen.json").write_text(json.dumps({"refusal": {"metric": entry}}))
    with pytest.raises(DatasetError, match=r"frozen\.json: refusal"):
        read_frozen(tmp_path / "frozen.json")
