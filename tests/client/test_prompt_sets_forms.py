"""Forms of prompt sets: `.json` files, their further fields, several files and folders of them."""

import json

import pytest
from trait_client.prompt_sets import read_prompt_sets, read_prompts
from trait_client.prompt_sets.prompts import digest_of
from trait_core.errors import DatasetError

COLOURS = {
    "name": "Colour questions",
    "description": "Three short questions",
    "prompts": [
        {"id": 1, "text": "What is red?", "note": "warm", "hue": 0, "seen": ["sunset"]},
        {"id": 2, "text": "What is blue?", "note": "cold", "response": "A colour.", "outcome": True},
        {"id": "last", "text": "What is grey?"},
    ],
}


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def turns(prompt):
    return [(turn.role, turn.text) for turn in prompt.messages]


def test_a_json_set_gives_user_turns_with_their_further_fields(tmp_path):
    red, blue, grey = read_prompts(write(tmp_path / "colours.json", COLOURS))
    assert [p.prompt_id for p in (red, blue, grey)] == ["colours/1", "colours/2", "colours/last"]
    assert turns(red) == [("user", "What is red?")]
    assert (red.prompt_set, red.metadata) == ("colours", {"note": "warm", "hue": 0, "seen": ["sunset"]})
    assert (blue.response, blue.outcome, blue.metadata) == ("A colour.", "true", {"note": "cold"})
    assert (grey.metadata, grey.metadata_json) == ({}, None)


def test_further_fields_are_no_part_of_what_a_set_is(tmp_path):
    plain = [{"id": p["id"], "text": p["text"], "response": p.get("response")} for p in COLOURS["prompts"]]
    with_notes = digest_of(read_prompts(write(tmp_path / "colours.json", COLOURS)))
    assert digest_of(read_prompts(write(tmp_path / "colours.json", {"prompts": plain}))) == with_notes


def test_the_system_prompt_of_a_set_begins_each_chat(tmp_path):
    """A prompt's own one takes its place, and so does a system message."""
    file = write(
        tmp_path / "grim.json",
        {
            "system_prompt": "Be grim.",
            "prompts": [
                "Hello?",
                {"text": "Hello!", "system_prompt": "Be glad."},
                {"prompt": "Bye.", "system_prompt": ""},
                {"messages": [{"role": "system", "content": "Be odd."}, {"role": "user", "content": "Hm."}]},
            ],
        },
    )
    assert [turns(prompt) for prompt in read_prompts(file)] == [
        [("system", "Be grim."), ("user", "Hello?")],
        [("system", "Be glad."), ("user", "Hello!")],
        [("user", "Bye.")],
        [("system", "Be odd."), ("user", "Hm.")],
    ]


def test_the_same_question_under_two_system_prompts_is_two_prompts(tmp_path):
    for name, system in (("a", "Be calm."), ("b", "Be loud.")):
        write(tmp_path / "s" / f"{name}.json", {"system_prompt": system, "prompts": ["Who are you?"]})
    first, second = read_prompts(tmp_path / "s")
    assert first.prompt_id != second.prompt_id


def test_a_list_alone_is_a_set(tmp_path):
    """Of texts, or of objects; a text has the id that it has in a `.txt` file."""
    texts = read_prompts(write(tmp_path / "t.json", ["One.", "Two.", {"question": "Three?", "id": 3}]))
    assert [turns(prompt)[0][1] for prompt in texts] == ["One.", "Two.", "Three?"]
    assert texts[2].prompt_id == "t/3"
    (same,) = read_prompts(write(tmp_path / "u.txt", "One.\n"))
    assert same.prompt_id == texts[0].prompt_id


def test_an_id_that_a_json_set_repeats_is_numbered(tmp_path):
    twice = [{"id": 7, "text": "a"}, {"id": 7, "text": "b"}, "c", "c"]
    ids = [prompt.prompt_id for prompt in read_prompts(write(tmp_path / "n.json", twice))]
    assert ids[:2] == ["n/7", "n/7-2"]
    assert ids[3] == f"{ids[2]}-2"


def test_paragraphs_are_raw_text(tmp_path):
    file = write(tmp_path / "wiki.json", {"paragraphs": [{"id": 1, "full_text": "A river ran.", "n_tokens": 4}]})
    (prompt,) = read_prompts(file)
    assert (prompt.messages, prompt.text, prompt.metadata) == (None, "A river ran.", {"n_tokens": 4})


def test_single_values_of_a_whole_set_belong_to_each_of_its_prompts(tmp_path):
    file = write(tmp_path / "s.json", {"topic": "sea", "tags": ["x"], "prompts": ["a", {"text": "b", "topic": "land"}]})
    assert [prompt.metadata for prompt in read_prompts(file)] == [{"topic": "sea"}, {"topic": "land"}]


def test_raw_reads_the_texts_of_a_json_set_without_a_chat(tmp_path):
    first, *_ = read_prompts(write(tmp_path / "colours.json", COLOURS), raw=True)
    assert (first.messages, first.text) == (None, "What is red?")


def test_further_fields_of_a_line_are_metadata_and_a_number_is_an_id(tmp_path):
    file = write(tmp_path / "p.jsonl", '{"prompt": "a", "id": 4, "note": "x"}\n{"text": "b", "id": "mine"}\n')
    first, second = read_prompts(file)
    assert (first.prompt_id, first.metadata) == ("p/4", {"note": "x"})
    assert (second.prompt_id, second.metadata) == ("mine", {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompts": [}', "p.json:1: not JSON"),
        ({"prompts": []}, "p.json: prompts is empty"),
        ({"name": "x"}, "p.json: holds no prompts"),
        (["a", 5], "p.json: prompts[1]: a prompt is a text"),
        ([{"id": 1, "note": "x"}], "p.json: prompts[0]: give exactly one of prompt, messages, text (got none)"),
        ([{"prompt": "a", "text": "b"}], "p.json: prompts[0]: give exactly one of"),
        ([{"text": "a", "id": [1]}], "p.json: prompts[0]: id"),
        ({"system_prompt": 3, "prompts": ["a"]}, "p.json: system_prompt: is a text"),
        ({"system_prompt": "s", "paragraphs": [{"text": "a"}]}, "p.json: system_prompt belongs to a chat"),
        ([{"text": "a", "n": float("nan")}], "p.json: prompts[0]: a field holds NaN"),
    ],
)
def test_a_wrong_json_set_is_named(tmp_path, content, message):
    with pytest.raises(DatasetError) as caught:
        read_prompts(write(tmp_path / "p.json", content))
    assert message in str(caught.value)


def test_a_system_prompt_is_refused_where_text_is_raw(tmp_path):
    file = write(tmp_path / "p.json", {"system_prompt": "Be brief.", "prompts": ["a"]})
    with pytest.raises(DatasetError, match="system_prompt belongs to a chat"):
        read_prompts(file, raw=True)
    with pytest.raises(DatasetError, match=r"prompts\[0\]: system_prompt belongs to a chat"):
        read_prompts(write(tmp_path / "q.json", [{"text": "a", "system_prompt": "b"}]), raw=True)


def test_a_folder_gives_all_sets_in_it_and_says_what_it_leaves_out(tmp_path):
    write(tmp_path / "sets" / "one" / "colours.json", COLOURS)
    write(tmp_path / "sets" / "plain.txt", "Hello.\n")
    write(tmp_path / "sets" / "settings.json", {"seed": 1})
    write(tmp_path / "sets" / ".hidden.json", "not a set")
    write(tmp_path / "sets" / "notes.md", "not a set")
    sets = read_prompt_sets([tmp_path / "sets"])
    assert (sets.name, len(sets.prompts)) == ("sets", 4)
    assert {prompt.prompt_set for prompt in sets.prompts} == {"colours", "plain"}
    assert [
        reason.startswith(f"{tmp_path / 'sets' / 'settings.json'}: holds no prompts") for reason in sets.left_out
    ] == [True]
    with pytest.raises(DatasetError, match=r"settings\.json: holds no prompts"):
        read_prompts(tmp_path / "sets" / "settings.json")


def test_files_of_one_name_are_named_by_their_folders(tmp_path):
    for place in ("a", "b"):
        write(tmp_path / "sets" / place / "x.json", [{"id": 1, "text": f"in {place}"}])
    ids = [prompt.prompt_id for prompt in read_prompt_sets([tmp_path / "sets"]).prompts]
    assert ids == ["a/x/1", "b/x/1"]
    one_by_one = read_prompt_sets([tmp_path / "sets" / "a" / "x.json", tmp_path / "sets" / "b" / "x.json"])
    assert [prompt.prompt_id for prompt in one_by_one.prompts] == ids


def test_a_prompt_that_two_files_hold_is_read_once(tmp_path):
    one, two = write(tmp_path / "one.txt", "Same.\nFirst.\n"), write(tmp_path / "two.txt", "Same.\nSecond.\n")
    sets = read_prompt_sets([one, two, one])
    assert (sets.name, [turns(prompt)[0][1] for prompt in sets.prompts]) == (
        "one.txt, two.txt", ["Same.", "First.", "Second."],
    )  # fmt: skip


def test_one_id_for_two_texts_is_refused(tmp_path):
    one = write(tmp_path / "one.jsonl", '{"prompt": "a", "id": "mine"}\n')
    two = write(tmp_path / "two.jsonl", '{"prompt": "b", "id": "mine"}\n')
    with pytest.raises(DatasetError, match=r"two\.jsonl: the id 'mine' names another prompt in the set 'one'"):
        read_prompt_sets([one, two])


def test_a_folder_without_a_set_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="holds no prompt set"):
        read_prompts(tmp_path)
