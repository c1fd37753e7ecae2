"""`trait-client chat`: commands, colours and the summary, over a service played back from memory; live tests are elsewhere."""

import json

import httpx
import pytest
from trait_client.cli.chat import Conversation, colour, converse
from trait_client.http import TraitClient
from trait_core.schema import LayerEvidence, Message, VectorInfo, VectorMetadata

DIRECTION = {"vector": "refusal", "sha256": "sha256:" + "0" * 64, "layer": 13, "centre": 2.0}


def info(name: str) -> VectorInfo:
    metadata = VectorMetadata(
        trait=name,
        model="m",
        config_digest="d",
        n_layers=30,
        d_model=8,
        method="mean_diff",
        positions="response[:]",
        layers={13: LayerEvidence(separation=20.0, centre=2.0, residual_norm=100.0)},
        chosen_layer=13,
        chosen_because="a test",
    )
    return VectorInfo(name=name, sha256=DIRECTION["sha256"], metadata=metadata)


@pytest.fixture
def service():
    """Answers every chat with two tokens, projected at +10 and -5; keeps the bodies that it was sent."""
    bodies = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "base"}]})
        if request.url.path.startswith("/v1/vectors/"):
            name = request.url.path.rpartition("/")[2]
            if name == "missing":
                return httpx.Response(404, json={"error": {"message": "no vector 'missing'", "type": "NotFound"}})
            return httpx.Response(200, json=info(name).model_dump(mode="json"))
        body = httpx.Response(200, content=request.content).json()
        bodies.append(body)
        events = []
        for text, value in (("Hel", 10.0), ("lo", -5.0)):
            chunk = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
            if "monitor" in body:
                chunk["monitor"] = {"directions": [DIRECTION], "choices": [{"index": 0, "generated": [[value]]}]}
            events.append(chunk)
        report = {"applied": [], "positions": {"prompt": 1, "generated": 1}}
        events.append({"choices": [], "steering": report if "steering" in body else None})
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        return httpx.Response(200, text=text, headers={"content-type": "text/event-stream"})

    with TraitClient(transport=httpx.MockTransport(answer)) as client:
        yield client, bodies


def say(capsys, client, *lines: str, watched: tuple[str, ...] = ()) -> str:
    converse(Conversation(client, 8, 0.0, watched=list(watched)), lines)
    return capsys.readouterr().out


def test_a_conversation_goes_on_with_what_was_said(service, capsys):
    client, bodies = service
    printed = say(capsys, client, "Hi", "And then?", "/clear", "New")
    assert printed.count("Hello") == 3
    roles = [[turn["role"] for turn in body["messages"]] for body in bodies]
    assert roles == [["user"], ["user", "assistant", "user"], ["user"]]
    assert bodies[1]["messages"][1]["content"] == "Hello"


def test_steering_is_put_on_changed_and_taken_away_in_mid_conversation(service, capsys):
    client, bodies = service
    lines = ["/steer refusal 1.5 13", "a", "/steer refusal -2", "b", "/off refusal", "c"]
    say(capsys, client, *lines)
    terms = [body.get("steering", {}).get("terms") for body in bodies]
    assert [t and (t[0]["coefficient"], t[0].get("layers")) for t in terms] == [(1.5, [13]), (-2.0, None), None]


def test_the_watched_trait_is_summed_up_on_the_scale_of_its_examples(service, capsys):
    client, bodies = service
    printed = say(capsys, client, "Hi", watched=("refusal",))
    assert bodies[0]["monitor"]["vectors"] == ["refusal"]
    # +10 and -5 around the centre, with 20 between the classes: +1.0 and -0.5.
    assert "+0.25" in printed
    assert "+1.00" in printed


def test_mistakes_are_said_and_the_conversation_goes_on(service, capsys):
    client, bodies = service
    lines = ["/steer refusal much", "/nothing", "/monitor missing", "still here"]
    converse(Conversation(client, 8, 0.0), lines)
    errors = capsys.readouterr().err
    assert "is not understood: /steer NAME COEF [LAYER]" in errors
    assert "no command /nothing" in errors
    assert "missing" in errors
    assert len(bodies) == 1


def test_a_reply_that_breaks_off_is_not_kept(service):
    client, _ = service
    conversation = Conversation(client, 8, 0.0, turns=[Message(role="user", content="before")])
    next(conversation.reply("lost"))
    assert len(conversation.turns) == 1


def test_colours_part_at_zero_and_deepen_outwards():
    near, far, other = (colour(value).color.triplet for value in (0.2, 1.5, -1.5))
    assert far.red > far.blue
    assert other.blue > other.red
    assert near.blue > far.blue
