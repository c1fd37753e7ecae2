"""`trait-extract` as it is typed: tables or JSON on stdout, one line on stderr for what goes wrong, exit codes."""

import csv
import json
import logging
import shutil
import subprocess
import sys

import pytest
from terminal import in_terminal
from trait_core.vectors.file import VectorFile
from trait_extraction.fitting.methods import METHODS
from trait_steering import extract


@pytest.mark.parametrize("command", ["run", "check", "show", "new-trait", "import", "export"])
def test_every_command_explains_itself(trait_extract, command):
    code, out, err = trait_extract(command, "--help")
    assert (code, err) == (0, "")
    assert f"trait-extract {command}" in out


def test_run_writes_and_registers_vectors_and_reports_them_as_json(serve, trait_extract, trait_folder, tmp_path):
    (url, service), root = serve, trait_folder().parents[1]
    call = ["run", "--trait", "warmth", "--method", "probe", "--method", "random", "--url", url, "--api-key", "key"]
    call += ["--datasets", root, "--out", tmp_path / "vectors", "--json"]
    code, out, err = trait_extract(*call)
    assert code == 0, err
    rows = json.loads(out)
    assert [(r["method"], r["registered"], r["reused"]) for r in rows] == [
        ("probe", "warmth", False),
        ("random", "warmth.random", False),
    ]
    vector = VectorFile.load(tmp_path / "vectors" / "warmth" / "probe.safetensors")
    assert rows[0]["chosen_layer"] == vector.metadata.chosen_layer
    assert set(service.registered) == {"warmth", "warmth.random"}
    assert "reading 32 texts at response[:]" in err
    code, out, _ = trait_extract(*call)
    assert (code, [r["reused"] for r in json.loads(out)], service.n_requests) == (0, [True, True], 1)


def test_run_prints_a_table_and_registers_nothing_with_no_register(
    serve, trait_extract, trait_folder, tmp_path, monkeypatch
):
    (url, service), root = serve, trait_folder().parents[1]
    monkeypatch.setenv("TRAIT_API_KEY", "key")
    code, out, _ = trait_extract(
        "run", "--all", "--url", url, "--datasets", root, "--out", tmp_path / "vectors", "--no-register"
    )
    assert code == 0
    assert "warmth" in out
    assert "mean_diff" in out
    assert service.registered == {}


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["run", "--trait", "nowhere"], 1, "no trait 'nowhere'"),
        (["run"], 2, "--trait NAME (once or more) or --all"),
        (["run", "--trait", "warmth", "--positions", "reply[:]"], 2, "positions 'reply[:]' are not understood"),
        (["run", "--trait", "warmth", "--method", "median"], 2, "unknown method 'median'"),
        (["run", "--trait", "warmth", "--held-out", "1.5"], 2, "held-out 1.5"),
        (["run", "--trait", "warmth", "--positions", "prompt[:]"], 2, "same prompt on both sides"),
        (["run", "--trait", "warmth", "--url", "http://127.0.0.1:9"], 1, "no service answers at http://127.0.0.1:9"),
        (["run", "--trait", "warmth", "--seed", "-1"], 2, "--seed"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(trait_extract, trait_folder, arguments, code, reason):
    root = trait_folder().parents[1]
    found, out, err = trait_extract(*arguments, "--datasets", root)
    assert (found, out) == (code, "")
    assert reason in err
    assert "Traceback" not in err


def test_check_says_which_pairs_are_left_out(trait_extract, trait_folder):
    sides = [[f"{word} {i} of" for i in range(12)] for word in ("Oui", "Yes")]
    sides[1][4] = sides[0][4]
    folder = trait_folder(*sides, name="raw", suffix=".txt")
    code, out, err = trait_extract("check", "--datasets", folder.parents[1], "--trait", "raw", "--json")
    (row,) = json.loads(out)["valid"]
    assert (code, row["n_scenarios"], len(row["left_out"])) == (0, 11, 1)
    assert "1 pair is left out, with a text that is on both sides: line 5" in row["left_out"][0]
    assert err == f"warning: {row['left_out'][0]}\n"


def test_a_folder_that_is_a_file_is_one_line(trait_extract, tmp_path):
    (tmp_path / "file").write_text("")
    code, out, err = trait_extract("new-trait", "warmth", "--datasets", tmp_path / "file")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert f"{tmp_path / 'file'}" in err
    assert "a file is where a folder is needed" in err


def test_a_run_and_the_python_call_say_which_pairs_are_left_out_and_use_the_others(
    trait_extract, trait_folder, serve, gaussians, tmp_path, caplog, monkeypatch
):
    # An earlier test of the process may have left logging switched off.
    monkeypatch.setattr(logging.getLogger("trait_steering.extraction"), "disabled", False)
    caplog.set_level("WARNING", logger="trait_steering.extraction")
    sides = [[f"{word} {i} of it all" for i in range(16)] for word in ("YES", "NO")]
    sides[1][4] = sides[0][4]
    folder = trait_folder(*sides, name="raw", suffix=".txt")
    url, _ = serve
    call = ["run", "--datasets", folder.parents[1], "--trait", "raw", "--url", url, "--api-key", "key", "--splits", "1"]
    code, _, err = trait_extract(*call, "--out", tmp_path / "vectors")
    assert code == 0, err
    said = "1 pair is left out, with a text that is on both sides: line 5"
    assert [line.endswith(said) for line in err.splitlines() if line.startswith("warning: ")] == [True]
    assert VectorFile.load(tmp_path / "vectors" / "raw" / "mean_diff.safetensors").metadata.n_positive == 15
    assert extract(gaussians(), folder, splits=1)["mean_diff"].metadata.n_positive == 15
    assert [message.endswith(said) for message in caplog.messages if "left out" in message] == [True]


def test_check_counts_valid_datasets_and_names_invalid_ones(trait_extract, trait_folder):
    root = trait_folder().parents[1]
    code, out, _ = trait_extract("check", "--datasets", root)
    assert code == 0
    assert "tone/warmth" in out
    bad = trait_folder(name="broken")
    (bad / "positive.jsonl").write_text("{\n" * 16)
    code, out, err = trait_extract("check", "--datasets", root, "--json")
    assert code == 3
    row = json.loads(out)["valid"][0]
    assert row.pop("balance")["words_accuracy"] == 1.0
    assert row | {"digest": ""} == {
        "trait": "warmth",
        "category": "tone",
        "style": "written",
        "derived": False,
        "n_scenarios": 16,
        "n_positive": 16,
        "n_negative": 16,
        "paired": True,
        "remarks": [],
        "left_out": [],
        "n_questions": 1,
        "mean_words_positive": 2.0,
        "mean_words_negative": 2.0,
        "metric": None,
        "digest": "",
    }
    assert f"not used: tone/broken: {bad / 'positive.jsonl'}:1: not JSON" in err


def test_check_warns_if_words_reveal_the_side_and_explains_the_warning(trait_extract, trait_folder):
    root = trait_folder().parents[1]
    code, out, _ = trait_extract("check", "--datasets", root)
    assert code == 0
    assert "! warmth: words alone reveal the side of 100% of held-out replies (in +/- replies: ^no 0%/100%" in out
    assert "A warning names what a probe may have learnt instead of the trait." in out
    sides = [[{"prompt": f"Q{i}?", "system_prompt": s} for i in range(9)] for s in ("Be warm.", "Be cold.")]
    trait_folder(*sides, name="told")
    code, out, _ = trait_extract("check", "--trait", "told", "--datasets", root)
    assert (code, "A warning names" in out) == (0, False)
    code, out, _ = trait_extract("check", "--trait", "told", "--datasets", root, "--json")
    assert json.loads(out)["valid"][0]["balance"] is None


def test_show_lists_every_layer_and_marks_the_chosen_one(serve, trait_extract, trait_folder, tmp_path):
    root = trait_folder().parents[1]
    options = ["--url", serve[0], "--api-key", "key", "--datasets", root, "--out", tmp_path]
    assert trait_extract("run", "--trait", "warmth", *options)[0] == 0
    path = tmp_path / "warmth" / "mean_diff.safetensors"
    code, out, _ = trait_extract("show", path)
    assert code == 0
    assert "* 5" in out
    assert "sha256:" in out
    assert "Nearest to half of the depth" in out
    content = json.loads(trait_extract("show", path, "--json")[1])
    assert (content["chosen_layer"], len(content["layers"])) == (5, 10)
    path.write_bytes(b"torn")
    code, _, err = trait_extract("show", path)
    assert code == 1
    assert f"error: {path}: " in err
    assert trait_extract("show", tmp_path / "absent")[0] == 1


@pytest.mark.parametrize("columns", [80, 60])
def test_in_a_narrow_terminal_the_tables_keep_their_words_whole(serve, trait_folder, tmp_path, columns):
    root = trait_folder(name="helpfulness_expressed").parents[1]
    program = "import sys; from trait_extraction.cli import main; sys.argv[0] = 'trait-extract'; main()"
    call = ["run", "--all", "--method", "all", "--url", serve[0], "--api-key", "key", "--datasets", str(root)]
    code, screen = in_terminal([sys.executable, "-c", program, *call], tmp_path, columns=columns)
    assert code == 0, screen
    table = screen[screen.index("Held-out evidence") :].partition("left out for lack of room")[0]
    rows = [line for line in table.splitlines() if line.startswith("helpfulness_expressed")]
    assert [row.split()[1] for row in rows] == ["mean_diff", "probe", "gradient", "pca", "random"]
    assert all(len(row) <= columns for row in rows)
    path = tmp_path / "vectors" / "helpfulness_expressed" / "probe.safetensors"
    _, screen = in_terminal([sys.executable, "-c", program, "show", str(path)], tmp_path, columns=columns)
    table = screen.partition("left out for lack of room")[0]
    assert [line.split()[0] for line in table.splitlines() if line.lstrip()[:1].isdigit()] == [*"01234", *"6789"]
    assert all(word in table.split() for word in ("separation", "accuracy", "AUC"))


def test_in_a_pipe_a_table_is_rows_of_values(serve, trait_extract, trait_folder, tmp_path):
    root = trait_folder().parents[1]
    call = ["run", "--all", "--method", "all", "--url", serve[0], "--api-key", "key", "--datasets", root]
    _, out, _ = trait_extract(*call, "--out", tmp_path / "vectors")
    title, headings, *rows = out.splitlines()
    assert title == "# Held-out evidence at the chosen layer"
    assert headings.split("\t")[:5] == ["trait", "method", "layer", "by", "AUC"]
    assert [row.split("\t")[:2] for row in rows[:5]] == [["warmth", name] for name in METHODS]
    assert {len(row.split("\t")) for row in rows[:5]} == {len(headings.split("\t"))}


def test_check_imports_neither_torch_nor_scikit_learn():
    program = "import sys, trait_extraction.cli; print([m for m in ('torch', 'sklearn', 'vllm') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


def test_run_with_all_methods_writes_a_table_of_evidence_with_intervals(serve, trait_extract, trait_folder, tmp_path):
    (url, _), root, table = serve, trait_folder().parents[1], tmp_path / "evidence.csv"
    call = ["run", "--all", "--method", "all", "--url", url, "--api-key", "key", "--datasets", root]
    code, out, err = trait_extract(*call, "--out", tmp_path / "vectors", "--table", table)
    assert code == 0, err
    assert "evidence" in out
    rows = list(csv.DictReader(table.open()))
    assert [r["method"] for r in rows] == ["mean_diff", "probe", "gradient", "pca", "random"]
    meta = VectorFile.load(tmp_path / "vectors" / "warmth" / "probe.safetensors").metadata
    at = meta.layers[meta.chosen_layer]
    assert (rows[1]["trait"], int(rows[1]["layer"]), rows[1]["chosen_by"]) == ("warmth", meta.chosen_layer, "evidence")
    assert float(rows[1]["auc"]) == pytest.approx(at.auc, rel=1e-3)
    stored = [float(rows[1]["cohens_d_low"]), float(rows[1]["cohens_d_high"])]
    assert stored == pytest.approx(at.cohens_d_interval, rel=1e-3)


def test_no_word_of_a_help_text_is_taken_for_markup(trait_extract, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    _, said, _ = trait_extract("run", "--help")
    for text in (
        "TOML file with a table [judge]",
        "Folder of <category>/<trait>",
        "write <out>/<trait>/<method>.safetensors",
    ):
        assert text in said


def test_a_tree_of_categories_is_run_whole_and_what_cannot_be_used_is_listed(
    serve, trait_extract, trait_folder, tmp_path
):
    """Two traits of one name are called by their categories, chosen alone or with the others; the rest runs, exit code 3."""
    warmth, broken = trait_folder(), trait_folder(name="broken")
    (broken / "negative.jsonl").unlink()
    root = warmth.parents[1]
    shutil.copytree(warmth, root / "affect" / "deep" / "warmth")
    shutil.copytree(warmth, root / "affect" / "calm")
    (root / "affect" / "calm" / "steering.json").unlink()
    options = ["--url", serve[0], "--api-key", "key", "--traits", root, "--splits", "1"]
    code, out, err = trait_extract("run", "--all", *options, "--out", tmp_path / "v")
    assert code == 3
    names = ["calm", "affect.deep.warmth", "tone.warmth"]
    assert [line.split("\t")[0] for line in out.splitlines() if "\tmean_diff\t" in line] == names
    assert sorted(serve[1].registered) == sorted(names)
    assert f"not used: tone/broken: {broken}: negative.jsonl is missing (found positive.jsonl)" in err
    assert "affect/calm/steering.json: is missing or empty: no sweep has questions to steer on" in err
    code, out, _ = trait_extract("run", "--trait", "affect/deep/warmth", *options, "--out", tmp_path / "v")
    assert (code, "affect.deep.warmth/mean_diff.safetensors (already existed)" in out) == (0, True)
    code, _, err = trait_extract("run", "--trait", "broken", *options, "--out", tmp_path / "v")
    assert (code, "not used: tone/broken" in err) == (1, True), "nothing could be used"
    code, _, err = trait_extract("run", "--trait", "warmth", *options)
    assert (code, "several categories: affect/deep/warmth or tone/warmth" in err) == (1, True)
