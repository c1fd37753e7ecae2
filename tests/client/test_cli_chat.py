"""`trait-client chat`: commands, colours and the summary, over the fake service; live tests are elsewhere."""

import io
import sys

import httpx
import pytest
from fake_service import FakeService
from trait_client.cli.chat import Conversation, _lines, colour, converse
from trait_client.http import TraitClient
from trait_core.errors import DatasetError
from trait_core.schema import LayerEvidence, Message
from vector_fixtures import made_vector

N_TOKENS = 2
EVIDENCE = LayerEvidence(separation=20.0, centre=2.0, residual_norm=100.0)


class Service(FakeService):
    """Answers every chat with two tokens, projected at +10 and -5 from the centre."""

    def __init__(self) -> None:
        shape = {"n_layers": 30, "d_model": 8}
        super().__init__(made_vector([13], None, EVIDENCE, trait="refusal", **shape), **shape)

    def reply(self, body, prompt, applied):
        return "Hel lo"

    def projection(self, ids, position, sha256, layer):
        return 12.0 if self.words[ids[position]] == "<assistant>" else -3.0


@pytest.fixture
def service():
    """A client, and the bodies of the chats that it sent."""
    fake = Service()
    with TraitClient(transport=httpx.MockTransport(fake.answer)) as client:
        yield client, fake.chats


def say(capsys, client, *lines: str, watched: tuple[str, ...] = ()) -> str:
    converse(Conversation(client, N_TOKENS, 0.0, watched=list(watched)), lines)
    return capsys.readouterr().out


def test_a_conversation_keeps_its_earlier_turns(service, capsys):
    client, bodies = service
    printed = say(capsys, client, "Hi", "And then?", "/clear", "New")
    assert printed.count("Hel lo") == 3
    roles = [[turn["role"] for turn in body["messages"]] for body in bodies]
    assert roles == [["user"], ["user", "assistant", "user"], ["user"]]
    assert bodies[1]["messages"][1]["content"] == "Hel lo"


def test_steering_is_added_changed_and_removed_during_a_conversation(service, capsys):
    client, bodies = service
    lines = ["/steer refusal 1.5 13", "a", "/steer refusal -2", "b", "/off refusal", "c"]
    say(capsys, client, *lines)
    terms = [body.get("steering", {}).get("terms") for body in bodies]
    assert [t and (t[0]["coefficient"], t[0].get("layers")) for t in terms] == [(1.5, [13]), (-2.0, None), None]


def test_the_summary_of_the_monitored_trait_is_on_the_scale_of_its_examples(service, capsys):
    client, bodies = service
    printed = say(capsys, client, "Hi", watched=("refusal",))
    assert bodies[0]["monitor"]["vectors"] == ["refusal"]
    # +10 and -5 around the centre, with 20 between the classes: +1.0 and -0.5.
    assert "+0.25" in printed
    assert "+1.00" in printed


def test_errors_are_printed_and_the_conversation_continues(service, capsys):
    client, bodies = service
    lines = ["/steer refusal much", "/nothing", "/monitor missing", "still here"]
    converse(Conversation(client, N_TOKENS, 0.0), lines)
    errors = capsys.readouterr().err
    assert "is not a valid command: /steer NAME COEF [LAYER]" in errors
    assert "no command /nothing" in errors
    assert "missing" in errors
    assert len(bodies) == 1


def test_an_interrupted_reply_is_not_kept(service):
    client, _ = service
    conversation = Conversation(client, N_TOKENS, 0.0, turns=[Message(role="user", content="before")])
    next(conversation.reply("lost"))
    assert len(conversation.turns) == 1


def test_colours_change_at_zero_and_deepen_away_from_it():
    near, far, other = (colour(value).color.triplet for value in (0.2, 1.5, -1.5))
    assert far.red > far.blue
    assert other.blue > other.red
    assert near.blue > far.blue


def test_a_pipe_is_read_as_a_text_file_is(monkeypatch):
    def piped(data):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return list(_lines())

    assert piped("\ufeffHi\r\n\r\nOne\u2028two\x0cthree\r\n".encode()) == ["Hi", "One\u2028two\x0cthree"]
    with pytest.raises(DatasetError, match="standard input: is UTF-16: save it as UTF-8"):
        piped("Hi\n".encode("utf-16"))
    with pytest.raises(DatasetError, match=r"standard input:1: not UTF-8 \(byte 0xe9\)"):
        piped(b"Caf\xe9\n")
