"""Many traits in one run: they share requests, one that fails stops no other, and a stopped run continues."""

import json
import threading

import pytest
from fake_registry import refusal
from fake_service import ACTIVATIONS, CHATS
from trait_core.errors import InvalidRequestError, ServiceError
from trait_extraction.data.datasets import load_trait
from trait_extraction.pipeline import RunOptions, run, run_all
from trait_extraction.plan import RESPONSE, Settings

READ = Settings(RESPONSE, splits=1)
METRIC = {"kind": "matches", "patterns": ["yes"]}
SYSTEM_PROMPTS = json.dumps(
    {"system_prompts": [{"positive": f"Say YES {i}.", "negative": f"Say NO {i}."} for i in range(5)]}
)


def replies(word, n=16, last=None):
    texts = [f"{word} {i}." for i in range(n)]
    texts[-1] = last or texts[-1]
    return [{"prompt": f"Question {i}?", "response": text} for i, text in enumerate(texts)]


@pytest.fixture
def jobs(trait_folder):
    """Written traits `t0`, `t1`, ..., each with texts of its own."""

    def make(n):
        folders = [trait_folder(replies(f"YES {k}"), replies(f"NO {k}"), name=f"t{k}") for k in range(n)]
        return [(load_trait(folder), READ) for folder in folders]

    return make


def sizes(service):
    return [len(body["inputs"]) for body in service.fake.requests[ACTIVATIONS]]


def test_texts_of_several_traits_are_read_in_one_request_and_give_the_same_files(jobs, gaussians, tmp_path):
    """The first requests wait in the service until every other trait is ready: those then go together."""
    service, ready, told = gaussians(), threading.Event(), []
    service.fake.fails[ACTIVATIONS] = lambda _body: ready.wait(60) and None

    def report(line):
        told.append(line)
        if sum(": reading 32 texts" in one for one in told) == 4:
            ready.set()

    traits = jobs(4)
    together = run(service, traits, ["mean_diff", "probe"], tmp_path / "together", RunOptions(report=report))
    assert sum(sizes(service)) == 4 * 32
    assert sizes(service)[-1] == 2 * 32, "two requests of one trait each were on their way"
    for one in traits[2:]:
        alone = run(gaussians(), [one], ["mean_diff", "probe"], tmp_path / "alone")
        assert {each.sha256 for each in alone} <= {each.sha256 for each in together}
    assert any(line.startswith("128 of 128 texts read, ") for line in told)


def test_a_request_holds_as_many_texts_as_the_service_takes(jobs, gaussians, tmp_path):
    service = gaussians(limits={"max_activation_inputs": 40})
    assert len(run(service, jobs(3), ["mean_diff"], tmp_path)) == 3
    assert sum(sizes(service)) == 96
    assert max(sizes(service)) <= 40


def test_replies_of_all_traits_are_generated_side_by_side(trait_folder, gaussians, tmp_path):
    service = gaussians(limits={"max_num_seqs": 8})
    service.fake.delay = 0.02
    steering = json.dumps({"questions": ["How?"], "metric": METRIC})
    traits = []
    for name in ("first", "second"):
        written = [
            [{"prompt": f"Of {name}, {i}?", "response": f"{word} {i}."} for i in range(16)] for word in ("YES", "NO")
        ]
        folder = trait_folder(*written, name=name, steering__json=steering, instructed__json=SYSTEM_PROMPTS)
        traits.append((load_trait(folder, "instructed"), READ))
    outcome = run_all(service, traits, ["mean_diff"], tmp_path)
    assert (len(outcome.extracted), outcome.failed, outcome.tally.replies) == (2, [], 64)
    first = [body["messages"][-1]["content"].split(",")[0] for body in service.fake.requests[CHATS]][:2]
    assert set(first) == {"Of first", "Of second"}
    assert 1 < service.fake.most_at_once[CHATS] <= 8


def test_a_refused_text_fails_its_trait_by_file_and_line_and_no_other(jobs, trait_folder, gaussians, tmp_path):
    service = gaussians()
    service.fake.longest = 50
    long = trait_folder(replies("YES"), replies("NO", last="NO " + "word " * 60), name="long")
    outcome = run_all(service, [*jobs(2), (load_trait(long), READ)], ["mean_diff"], tmp_path)
    assert [one.vector.metadata.trait for one in outcome.extracted] == ["t0", "t1"]
    (failed,) = outcome.failed
    assert failed.name == "long"
    assert "negative.jsonl:16: " in str(failed.error)
    assert "at most 50 fit" in str(failed.error)


def test_a_trait_that_cannot_be_planned_or_read_stops_no_other(jobs, trait_folder, gaussians, tmp_path):
    service = gaussians()
    usual = service.fake.pool
    service.fake.pool = lambda item, positions, layers: usual(item, positions, layers)._replace(
        count=0 if "gone" in (item.response or "") and positions == "response[:]" else 5
    )
    gone = trait_folder(replies("YES"), replies("NO", last="NO gone."), name="gone")
    text = trait_folder([f"YES {i}" for i in range(9)], [f"NO {i}" for i in range(9)], name="text", suffix=".txt")
    traits = [(load_trait(text), READ), *jobs(1), (load_trait(gone), READ)]
    outcome = run_all(service, traits, ["mean_diff"], tmp_path)
    assert [one.vector.metadata.trait for one in outcome.extracted] == ["t0"]
    assert {one.name: type(one.error).__name__ for one in outcome.failed} == {
        "text": "InvalidRequestError",
        "gone": "DatasetError",
    }
    with pytest.raises(InvalidRequestError, match="unknown method"):
        run_all(service, traits, ["median"], tmp_path)


def test_a_stopped_run_reads_only_what_is_missing(jobs, gaussians, tmp_path):
    service, traits = gaussians(limits={"max_activation_inputs": 32}), jobs(4)
    answered = service.fake.answered[ACTIVATIONS]
    stop = refusal(500, "the engine has stopped")
    service.fake.fails[ACTIVATIONS] = lambda _body: stop if len(answered) >= 2 else None
    with pytest.raises(ServiceError, match="the engine has stopped"):
        run(service, traits, ["mean_diff"], tmp_path)
    for thread in threading.enumerate():  # what was on its way is stored, too
        if thread.name.startswith("read"):
            thread.join()
    assert len(list(tmp_path.glob(".stages/*/*.activations"))) == 2
    service.fake.fails.clear()
    outcome = run_all(service, traits, ["mean_diff"], tmp_path)
    assert (len(outcome.extracted), outcome.tally.texts, len(answered)) == (4, 2 * 32, 4)
    again = run_all(service, traits, ["mean_diff"], tmp_path)
    assert (again.tally.texts, all(one.reused for one in again.extracted)) == (0, True)


def test_the_command_line_makes_the_rest_and_lists_what_failed_with_the_reason(
    serve, trait_extract, trait_folder, tmp_path
):
    url, service = serve
    service.longest = 50
    root = trait_folder(replies("YES"), replies("NO"), name="good").parents[1]
    trait_folder(replies("YES"), replies("NO", last="NO " + "word " * 60), name="long")
    call = ["run", "--all", "--url", url, "--api-key", "key", "--datasets", root, "--out", tmp_path / "vectors"]
    call += ["--splits", "1"]
    code, out, err = trait_extract(*call)
    assert code == 3, err
    assert "good" in out
    assert "read 32 texts" in out
    assert "not used: long: " in err
    assert "negative.jsonl:16" in err
    code, out, err = trait_extract(*call, "--json")
    assert (code, [row["trait"] for row in json.loads(out)]) == (3, ["good"])
