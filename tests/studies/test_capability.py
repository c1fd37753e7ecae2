"""The table of capability under steering is that of the committed answers."""

import csv

import pytest
from capability_under_steering.study import ANSWERS, HERE, accuracies, aliases, kept, question_ids
from study.lab import SMALL, write_csv

FOLDERS = {SMALL: HERE} | {path.parent.name: path.parent for path in HERE.glob(f"*/{ANSWERS}")}


@pytest.mark.parametrize("model", FOLDERS)
def test_the_table_is_that_of_the_answers(tmp_path, model):
    folder = FOLDERS[model]
    write_csv(tmp_path / "accuracy.csv", accuracies(kept(folder / ANSWERS), model))
    assert (tmp_path / "accuracy.csv").read_text() == (folder / "accuracy.csv").read_text()


@pytest.mark.parametrize("model", FOLDERS)
def test_every_setting_answered_every_question_in_both_harnesses(model):
    for right in kept(FOLDERS[model] / ANSWERS).values():
        assert set(right) == {model, *aliases(model)}
        assert all(list(each) == question_ids() for each in right.values())


def test_the_page_quotes_the_table():
    page = (HERE / "README.md").read_text(encoding="utf-8")
    rows = list(csv.DictReader((HERE / "accuracy.csv").open()))
    for vector, coefficient in (("refusal", "2"), ("refusal", "4"), ("sycophancy", "2"), ("sycophancy", "4")):
        (row,) = (r for r in rows if (r["harness"], r["vector"], r["coefficient"]) == ("lm-eval", vector, coefficient))
        delta, low, high = (float(row[name]) for name in ("delta", "low", "high"))
        assert f"{delta:.2f} [{low:.2f}, {high:.2f}] at {coefficient}" in page
    random = [r for r in rows if r["harness"] == "lm-eval" and r["vector"].startswith("random")]
    assert all(float(r["low"]) <= 0 <= float(r["high"]) for r in random)
    assert (min(float(r["delta"]) for r in random), max(float(r["delta"]) for r in random)) == (-0.03, 0.05)
