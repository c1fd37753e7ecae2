"""`trait-extract new-trait`: a folder of examples that `check` refuses one by one until all are replaced."""

import json

import pytest


@pytest.fixture
def new_trait(trait_extract, tmp_path):
    return lambda *arguments: trait_extract("new-trait", *arguments, "--datasets", tmp_path)


def test_check_names_each_missing_part_until_the_trait_is_complete(new_trait, trait_extract, tmp_path):
    code, out, _ = new_trait("calm", "--category", "tone", "--json")
    assert code == 0
    folder = tmp_path / "tone" / "calm"
    assert json.loads(out) == {
        "folder": str(folder),
        "files": ["README.md", "definition.txt", "negative.jsonl", "positive.jsonl", "steering.json"],
    }
    sides = {
        side: "".join(json.dumps({"prompt": f"Q{i}?", "response": f"{word} {i}."}) + "\n" for i in range(8))
        for side, word in (("positive", "Yes"), ("negative", "No"))
    }
    steering = {"questions": ["How are you?"], "direction": "positive"}
    faults = []
    for name, content in (
        ("positive.jsonl", sides["positive"]),
        ("negative.jsonl", sides["negative"]),
        ("definition.txt", "Rate it."),
        ("steering.json", json.dumps(steering, indent=2)),
    ):
        code, _, err = trait_extract("check", "--datasets", tmp_path)
        assert code == 1
        faults.append(err)
        (folder / name).write_text(content)
    lines = {"positive.jsonl": 1, "negative.jsonl": 1, "definition.txt": 1, "steering.json": 3}
    for fault, (name, line) in zip(faults, lines.items(), strict=True):
        assert f"not used: tone/calm: {folder / name}:{line}: still an example of new-trait" in fault
    assert trait_extract("check", "--datasets", tmp_path)[0] == 0


@pytest.mark.parametrize(
    ("style", "files"),
    [
        ("written", {"positive.jsonl", "negative.jsonl"}),
        ("instructed", {"instructed.json"}),
        ("completions", {"positive.txt", "negative.txt"}),
    ],
)
def test_every_style_has_its_files_and_says_how_to_write_them(new_trait, trait_extract, tmp_path, style, files):
    code, out, _ = new_trait("calm", "--style", style)
    assert code == 0
    assert "trait-extract check --trait calm" in out
    folder = tmp_path / "custom" / "calm"
    common = {"README.md", "definition.txt", "steering.json"}
    assert {p.name for p in folder.iterdir()} == files | common
    assert all(f"`{name}`" in (folder / "README.md").read_text() for name in files)
    assert "still an example of new-trait" in trait_extract("check", "--datasets", tmp_path)[2]


def test_an_existing_trait_is_not_touched(new_trait, tmp_path):
    assert new_trait("calm", "--category", "tone")[0] == 0
    (tmp_path / "tone" / "calm" / "definition.txt").write_text("mine")
    for category in ("tone", "other"):
        code, _, err = new_trait("calm", "--category", category)
        assert code == 2
        assert "already exists" in err
    assert (tmp_path / "tone" / "calm" / "definition.txt").read_text() == "mine"
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("arguments", [("../calm",), ("Calm",), ("a/b",), ("calm", "--category", ".."), ("*",)])
def test_a_name_that_is_a_path_is_refused(new_trait, tmp_path, arguments):
    code, _, err = new_trait(*arguments)
    assert code == 2
    assert "is not a valid name" in err
    assert list(tmp_path.iterdir()) == []
