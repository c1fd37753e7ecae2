"""Prompt sets: what a line may hold, and how a wrong one is named."""

import json

import pytest
from trait_client.prompt_sets import read_prompts
from trait_client.prompt_sets.prompts import digest_of
from trait_core.errors import DatasetError
from trait_core.schema import Message


def write(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def test_a_jsonl_line_is_a_user_turn_a_chat_or_raw_text(tmp_path):
    """With a reply, an id and an outcome, or without."""
    file = write(
        tmp_path / "p.jsonl",
        {"prompt": "Hi", "response": "Hello.", "id": "greet", "outcome": "kind"},
        "",
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]},
        {"text": "The sun rises", "outcome": True},
    )
    turn, chat, text = read_prompts(file)
    assert (turn.prompt_id, turn.messages, turn.response, turn.outcome) == (
        "greet", (Message(role="user", content="Hi"),), "Hello.", "kind",
    )  # fmt: skip
    assert [message.role for message in chat.messages] == ["system", "user"]
    assert (text.messages, text.text, text.response, text.outcome) == (None, "The sun rises", None, "true")


def test_a_chat_may_hold_what_the_chat_route_takes(tmp_path):
    """Tool calls without content, a tool's answer, parts, other roles; they are part of what the model reads."""
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    turns = [
        {"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "12 degrees", "tool_call_id": "c1"},
        {"role": "assistant", "content": "Cold.", "reasoning": "12 is little."},
    ]
    (prompt,) = read_prompts(write(tmp_path / "p.jsonl", {"messages": turns}))
    assert prompt.content()["messages"] == turns
    assert [message.text for message in prompt.messages] == ["Be\nbrief.", "", "12 degrees", "Cold."]
    sent = prompt.activation_input().model_dump(exclude_none=True)["messages"]
    assert [turn | {"content": turn.get("content")} for turn in sent] == turns
    (other,) = read_prompts(write(tmp_path / "q.jsonl", {"messages": [*turns[:3], turns[3] | {"reasoning": "x"}]}))
    assert other.prompt_id != prompt.prompt_id


def test_a_plain_message_is_a_role_and_a_content_whatever_else_a_message_may_have(tmp_path):
    """Ids and digests of prompt sets, cells and captures are made of them."""
    (prompt,) = read_prompts(write(tmp_path / "p.txt", "Hi"))
    assert prompt.content() == {"messages": [{"role": "user", "content": "Hi"}], "text": None, "response": None}
    assert Message(role="user", content="Hi").model_dump_json() == '{"role":"user","content":"Hi"}'


def test_a_text_file_holds_a_user_turn_a_line(tmp_path):
    """Without an id, the texts name a prompt: the same in both kinds of file, whatever stands around it."""
    plain = read_prompts(write(tmp_path / "p.txt", "First.", "", "Second\u2028line."))
    assert [prompt.messages[0].content for prompt in plain] == ["First.", "Second\u2028line."]
    (again,) = read_prompts(write(tmp_path / "p.jsonl", {"prompt": "First.", "outcome": "x"}))
    assert again.prompt_id == plain[0].prompt_id != plain[1].prompt_id


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "one JSON object"),
        ({}, "exactly one of prompt, messages, text (got none)"),
        ({"prompt": "a", "text": "b"}, "got prompt and text"),
        ({"prompt": ""}, "prompt: "),
        ({"prompt": "a", "response": ""}, "response: "),
        ({"messages": [{"role": "", "content": "a"}]}, "messages.0.role: "),
        ({"messages": [{"content": "a"}]}, "messages.0.role: "),
        ({"messages": [{"role": "user", "contents": "a"}]}, "needs content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content: "),
        ({"prompt": "a", "outcome": ["x"]}, "outcome"),
        ({"prompt": "another", "id": "one"}, "has the id 'one' as line 1"),
        ({"prompt": "same"}, "has the same texts as line 2"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    """File, line, field and reason."""
    file = write(tmp_path / "p.jsonl", {"prompt": "first", "id": "one"}, {"prompt": "same"}, line)
    with pytest.raises(DatasetError) as caught:
        read_prompts(file)
    assert str(caught.value).startswith(f"{file}:3: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"), [("p.csv", ".jsonl"), ("none.txt", "is missing"), ("e.txt", "is empty: write one prompt")]
)
def test_a_file_that_is_no_prompt_set_is_named(tmp_path, name, message):
    """Another kind of file, none at all, and an empty one."""
    (tmp_path / "e.txt").write_text("\n\n")
    (tmp_path / "p.csv").write_text("prompt\nhi\n")
    with pytest.raises(DatasetError, match=message) as caught:
        read_prompts(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_the_digest_of_a_set_follows_texts_ids_and_order(tmp_path):
    """An outcome is a label: it is not read by the model."""

    def of(*lines):
        return digest_of(read_prompts(write(tmp_path / "p.jsonl", *lines)))

    a, b = {"prompt": "a"}, {"prompt": "b"}
    assert of(a, b) == of(a | {"outcome": "x"}, b)
    assert len({of(a, b), of(b, a), of(a), of(a, b | {"id": "b"}), of(a, b | {"response": "c"})}) == 5
