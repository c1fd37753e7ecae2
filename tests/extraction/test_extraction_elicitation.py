"""Generated replies: made once, kept when a run is killed, and refused if they do not show the trait."""

import json
import signal
import subprocess
import sys
import time

import pytest
from fake_judge import Fault, JudgeServer, completion, judge_listening, rated_reply
from loopback import on_a_port
from trait_core.errors import ServiceError
from trait_core.schema import Generation
from trait_core.vectors.file import VectorFile
from trait_extraction.data.datasets import load_trait
from trait_extraction.pipeline import RunOptions, run
from trait_extraction.plan import RESPONSE as REPLY
from trait_extraction.plan import Plan, Settings
from trait_extraction.reading.generation import Replies, generate, missing_replies
from trait_extraction.reading.reply_check import ElicitationError, ReplyCheck, ReplyJudge, check_replies
from trait_extraction.reading.source import Source
from trait_extraction.reading.stage_store import KeyedLines, StageStore

RESPONSE = Settings(REPLY)
METRIC_ONLY = ReplyCheck()
UNCHECKED = RunOptions(check=ReplyCheck(allow_unchecked=True))
METRIC = {"kind": "matches", "patterns": ["yes"]}
INSTRUCTED = json.dumps(
    {"system_prompts": [{"positive": f"Say YES {i}.", "negative": f"Say NO {i}."} for i in range(5)]}
)


@pytest.fixture
def instructed(trait_folder):
    """A factory of instructed datasets of 16 scenarios; with a metric unless told otherwise."""

    def make(metric=METRIC, direction="positive", name="warmth"):
        steering = {"questions": ["How are you?"], "direction": direction} | ({"metric": metric} if metric else {})
        folder = trait_folder(name=name, steering__json=json.dumps(steering), instructed__json=INSTRUCTED)
        return load_trait(folder, "instructed")

    return make


def replies_of(dataset, positive="YES", negative="NO"):
    n = dataset.n_scenarios
    return Replies(*(tuple(f"{word} {i}" for i in range(n)) for word in (positive, negative)))


# ---- generation


def test_replies_are_generated_once_read_in_their_context_and_recorded(instructed, gaussians, tmp_path):
    service, dataset, requests = gaussians(), instructed(), []
    original = service.activations
    service.activations = lambda request: requests.append(request) or original(request)
    (result,) = run(service, [(dataset, RESPONSE)], ["mean_diff"], tmp_path, RunOptions(register=True))
    assert len(service.asked) == len(set(service.asked)) == 32
    first = requests[0].inputs[0]
    assert [m.content for m in first.messages] == ["Say YES 0.", "Question 0?"]
    assert (first.response, requests[0].generate) == ("YES, so it is with Question 0.", None)
    assert result.path == tmp_path / "warmth" / "instructed" / "mean_diff.safetensors"
    assert list(service.registered) == ["warmth.instructed"]
    meta = VectorFile.load(result.path).metadata
    assert (meta.style, meta.derived, meta.n_positive) == ("instructed", False, 16)
    assert meta.method_options["generation"]["max_tokens"] == 64
    found = meta.elicitation
    assert (found.checked_by, found.checked_with, found.auc, found.passed) == ("metric", "matches", 1.0, True)
    assert (found.n_generated, found.n_kept, found.mean_high, found.mean_low) == (16, 16, 100.0, 0.0)
    (again,) = run(service, [(dataset, RESPONSE)], ["mean_diff"], tmp_path)
    assert (again.reused, len(service.asked)) == (True, 32)


@pytest.mark.parametrize("apart", [False, True])
def test_the_answer_is_checked_and_the_reply_is_read_with_its_reasoning(instructed, gaussians, tmp_path, apart):
    """Also where the service itself takes the reasoning out of the text."""
    thought = "shall I say y-e-s?"

    class Thinks(gaussians):
        def chat(self, *args, **options):
            found = super().chat(*args, **options)
            (choice,) = found.choices
            if apart:
                choice.reasoning = thought
            else:
                choice.text = f"<think>{thought}</think>{choice.text}"
            return found

    service, requests = Thinks(reasoning_markers="<think> </think>"), []
    original = service.activations
    service.activations = lambda request: requests.append(request) or original(request)
    dataset = instructed(metric={"kind": "matches", "patterns": ["yes", "y-e-s"]})
    (result,) = run(service, [(dataset, RESPONSE)], ["mean_diff"], tmp_path)
    assert result.vector.metadata.elicitation.auc == 1.0, "the thought matches on both sides"
    assert requests[0].inputs[0].response == f"<think>{thought}</think>YES, so it is with Question 0."


def test_an_interrupted_run_asks_only_for_missing_replies(instructed, gaussians, tmp_path):
    service, dataset, lines = gaussians(fails_after=11), instructed(), []
    service.fake.change(limits={"max_num_seqs": 1})
    with pytest.raises(ServiceError, match="the engine has stopped"):
        run(service, [(dataset, RESPONSE)], ["mean_diff"], tmp_path)
    assert len(service.asked) == 11
    service.fake.fails_after = None
    run(service, [(dataset, RESPONSE)], ["mean_diff"], tmp_path, RunOptions(report=lines.append))
    assert len(service.asked) == len(set(service.asked)) == 32
    assert "generating 21 replies (11 of 32 are stored)" in lines
    assert any(line.startswith("21 of 21 replies, ") for line in lines)
    assert any("elicitation passed: AUC 1.00 by the metric matches" in line for line in lines)


def test_replies_belong_to_a_model_and_to_a_way_of_sampling(instructed, gaussians, tmp_path):
    service, dataset, store = gaussians(), instructed(), StageStore(tmp_path)

    def asked(**generation):
        before = len(service.asked)
        plan = Plan.of(dataset, Settings(REPLY, generation=Generation(**generation)))
        source = Source(service, service.info(), store)
        for task in missing_replies(plan, source):
            generate(task, plan, source)
        return len(service.asked) - before

    assert [asked(), asked(seed=3), asked(max_tokens=8), asked(temperature=1.0), asked(temperature=1.0, seed=3)] == [
        32, 0, 32, 32, 32,
    ]  # fmt: skip
    service.fake.change(weights_digest="sha256:tuned")
    assert asked() == 32


def test_a_torn_line_is_made_again_and_its_neighbours_stay(tmp_path):
    path = tmp_path / "replies.jsonl"
    store = KeyedLines(path)
    for key in "ab":
        store.put(key, {"reply": key})
    path.write_bytes(path.read_bytes()[:-9])
    torn = KeyedLines(path)
    assert (torn.get("a"), torn.get("b")) == ({"reply": "a"}, None)
    torn.put("b", {"reply": "again"})
    assert KeyedLines(path).get("b") == {"reply": "again"}
    assert KeyedLines(path).get("a") == {"reply": "a"}


def test_a_killed_command_continues_where_it_stopped(serve, instructed, tmp_path):
    (url, service), dataset = serve, instructed()
    service.delay = 0.3
    service.change(limits={"max_num_seqs": 2})

    def command(url):
        words = [sys.executable, "-c", "from trait_extraction.cli import main; main()", "run", "--trait", "warmth"]
        words += ["--style", "instructed", "--url", url, "--api-key", "key", "--out", tmp_path / "vectors"]
        return [*map(str, words), "--datasets", str(dataset.folder.parents[1])]

    process = subprocess.Popen(command(url), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    store = tmp_path / "vectors" / ".stages" / "warmth" / "replies.jsonl"
    deadline = time.monotonic() + 300
    while not store.is_file() or len(KeyedLines(store)) < 4:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept, again = len(KeyedLines(store)), type(service)(key="key")
    with on_a_port(again.answer) as other_url:
        done = subprocess.run(command(other_url), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert f"({kept} of 32 are stored)" in done.stderr
    assert kept >= 4
    # Only replies that were on their way when it was killed are asked for again: two at most, one for each connection.
    assert len(again.asked) == 32 - kept
    assert len(service.asked) - kept <= 2


# ---- the check


def test_replies_that_do_not_show_the_trait_are_refused_with_the_auc_and_the_bar(instructed, gaussians, tmp_path):
    service = gaussians(obedient=False)
    with pytest.raises(ElicitationError, match=r"matches separates the two sides with AUC 0\.50, and 0\.8 is needed"):
        run(service, [(instructed(), RESPONSE)], ["mean_diff"], tmp_path, RunOptions(register=True))
    assert (service.n_requests, service.registered) == (0, {})
    (result,) = run(service, [(instructed(), RESPONSE)], ["mean_diff"], tmp_path, UNCHECKED)
    found = VectorFile.load(result.path).metadata.elicitation
    assert (found.passed, found.auc, found.n_kept) == (False, 0.5, 16)
    assert "0.8 is needed" in found.fault


def test_a_file_with_another_wording_of_the_failed_check_is_reused(instructed, gaussians, tmp_path):
    job = (instructed(metric=None), RESPONSE)
    (made,) = run(gaussians(), [job], ["mean_diff"], tmp_path, UNCHECKED)
    meta = made.vector.metadata
    worded = meta.elicitation.model_copy(update={"fault": "an earlier version's words"})
    VectorFile(meta.model_copy(update={"elicitation": worded}), made.vector.directions).save(made.path)
    (again,) = run(gaussians(), [job], ["mean_diff"], tmp_path, UNCHECKED)
    assert (again.reused, again.vector.metadata.elicitation) == (True, worded)


@pytest.mark.parametrize(("n_right", "passes"), [(16, True), (10, True), (9, False), (0, False)])
def test_the_bar_is_an_auc_of_eight_tenths(instructed, n_right, passes):
    """The AUC of `matches` is (1 + hits on one side - hits on the other) / 2: 10 of 16 are 0.81, 9 are 0.78."""
    dataset = instructed()
    positive = tuple("YES" if i < n_right else "maybe" for i in range(16))
    replies = Replies(positive, ("NO",) * 16)
    if passes:
        kept, found = check_replies(dataset, replies, METRIC_ONLY)
        assert (list(map(len, kept)), found.auc) == ([16, 16], 0.5 + n_right / 32)
    else:
        with pytest.raises(ElicitationError, match=f"AUC {0.5 + n_right / 32:.2f}"):
            check_replies(dataset, replies, METRIC_ONLY)


def test_where_the_trait_is_the_negative_side_that_side_must_score_higher(instructed):
    dataset = instructed(direction="negative")
    with pytest.raises(ElicitationError, match=r"AUC 0\.00"):
        check_replies(dataset, replies_of(dataset), METRIC_ONLY)
    assert check_replies(dataset, replies_of(dataset, "NO", "YES"), METRIC_ONLY)[1].auc == 1.0


def test_without_metric_and_judge_nothing_is_generated_unless_unchecked_replies_are_allowed_which_is_recorded(
    instructed, gaussians, tmp_path
):
    service, dataset = gaussians(), instructed(metric=None)
    with pytest.raises(ElicitationError, match=r"unchecked: the trait has no metric.*--allow-unchecked"):
        run(service, [(dataset, RESPONSE)], ["mean_diff"], tmp_path)
    assert service.asked == []
    (result,) = run(service, [(dataset, RESPONSE)], ["mean_diff"], tmp_path, UNCHECKED)
    found = result.vector.metadata.elicitation
    assert (found.checked_by, found.auc, found.passed) == ("nothing", None, False)
    assert "unchecked" in found.fault


def test_a_judge_keeps_clear_pairs_and_is_asked_once(instructed, tmp_path):
    dataset, asked = instructed(metric=None), []

    def score(trait, prompt, reply):
        asked.append((trait, prompt, reply))
        number = int(reply.split()[1])
        return (60 if number < 12 else 59) if reply.startswith("YES") else (40 if number else 41)

    scores = KeyedLines(tmp_path / "judgements.jsonl")
    kept, found = check_replies(dataset, replies_of(dataset), ReplyCheck(ReplyJudge("rater-1", score)), scores)
    assert kept == (list(range(1, 12)), list(range(1, 12)))
    assert (found.checked_by, found.checked_with, found.judged_by, found.n_kept) == ("judge", "rater-1", "rater-1", 11)
    assert found.auc == 1.0
    assert asked[0] == ("warmth", "Question 0?", "YES 0")
    assert len(asked) == 32
    stored = KeyedLines(tmp_path / "judgements.jsonl")
    again = check_replies(dataset, replies_of(dataset), ReplyCheck(ReplyJudge("rater-1", score)), stored)
    assert (again, len(asked)) == ((kept, found), 32)
    check_replies(dataset, replies_of(dataset), ReplyCheck(ReplyJudge("rater-2", score)), scores)
    assert len(asked) == 64


def test_a_judge_that_keeps_too_few_pairs_or_separates_none_refuses(instructed):
    dataset = instructed(metric=None)
    picky = ReplyCheck(ReplyJudge("picky", lambda _t, _p, reply: 90 if reply in {f"YES {i}" for i in range(7)} else 10))
    with pytest.raises(ElicitationError, match=r"AUC 0\.72"):
        check_replies(dataset, replies_of(dataset), picky)
    nearly = ReplyCheck(ReplyJudge("nearly", lambda _t, _p, reply: 59 if reply.startswith("YES") else 41))
    with pytest.raises(ElicitationError, match="nearly keeps 0 of 16 generated pairs"):
        check_replies(dataset, replies_of(dataset), nearly)
    with pytest.raises(ElicitationError, match="scored a reply 101"):
        check_replies(dataset, replies_of(dataset), ReplyCheck(ReplyJudge("broken", lambda *_: 101)))


def test_a_judge_drops_pairs_beside_a_metric_and_the_metric_decides(instructed):
    dataset = instructed()
    strict = ReplyCheck(
        ReplyJudge("strict", lambda _t, _p, reply: 80 if reply in {f"YES {i}" for i in range(9)} else 20)
    )
    kept, found = check_replies(dataset, replies_of(dataset), strict)
    assert (kept[0], found.checked_by, found.judged_by, found.auc) == (list(range(9)), "metric", "strict", 1.0)


def test_pairs_without_a_reply_are_dropped_and_too_few_are_refused(instructed):
    dataset = instructed()
    silent = Replies(("YES",) * 16, ("NO",) * 13 + ("", " ", "\n"))
    kept, found = check_replies(dataset, silent, METRIC_ONLY)
    assert (kept[1], found.n_generated, found.n_kept) == (list(range(13)), 16, 13)
    with pytest.raises(ElicitationError, match="4 of 16 pairs have a reply on both sides"):
        check_replies(dataset, Replies(("YES",) * 16, ("NO",) * 4 + ("",) * 12), UNCHECKED.check)


def test_one_refused_trait_does_not_stop_the_others(instructed, gaussians, tmp_path):
    class Picky(gaussians):
        def chat(self, messages, **options):
            self.obedient = True
            result = super().chat(messages, **options)
            result.choices[0].text = "NO." if options["max_tokens"] == 9 else result.text
            return result

    jobs = [
        (instructed(name="first"), Settings(REPLY, generation=Generation(max_tokens=9))),
        (instructed(name="second"), RESPONSE),
    ]
    with pytest.raises(ElicitationError, match=r"trait 'first'.*AUC 0\.50"):
        run(Picky(), jobs, ["mean_diff"], tmp_path)
    assert [p.parent.parent.name for p in tmp_path.glob("*/instructed/*.safetensors")] == ["second"]


def test_the_command_line_runs_a_style_and_says_what_the_check_found(serve, trait_extract, instructed, tmp_path):
    (url, service), dataset = serve, instructed()
    call = ["run", "--trait", "warmth", "--style", "instructed", "--url", url, "--api-key", "key"]
    call += ["--datasets", dataset.folder.parents[1], "--out", tmp_path / "vectors", "--json"]
    code, out, err = trait_extract(*call)
    assert code == 0, err
    (row,) = json.loads(out)
    assert (row["style"], row["registered"], row["elicitation"]["auc"]) == ("instructed", "warmth.instructed", 1.0)
    assert "elicitation passed: AUC 1.00" in err
    service.obedient = False
    code, _, err = trait_extract(*call, "--force")
    assert code == 1
    assert "AUC 0.50" in err
    assert "Traceback" not in err
    for option in ("--allow-unchecked", "--unvetted"):
        code, _, err = trait_extract(*call, "--force", option)
        assert code == 0, err
    assert trait_extract(*call[:4], "spoken")[0] == 2


def test_the_command_line_has_a_judge_check_the_replies_of_a_trait_without_a_metric(
    serve, trait_extract, instructed, tmp_path
):
    url, _ = serve
    call = ["run", "--trait", "warmth", "--style", "instructed", "--url", url, "--api-key", "key", "--json"]
    call += ["--datasets", instructed(metric=None).folder.parents[1], "--out", tmp_path / "vectors"]
    code, _, err = trait_extract(*call)
    assert (code, "no judge is configured" in err) == (1, True)
    server = JudgeServer(lambda _, body: completion("90" if rated_reply(body).startswith("YES") else "10"))
    with judge_listening(server):
        code, out, err = trait_extract(*call, "--judge-url", server.url, "--judge-model", "j")
        assert code == 0, err
        (found,) = (row["elicitation"] for row in json.loads(out))
        assert (found["checked_by"], found["auc"], found["passed"], found["n_kept"]) == ("judge", 1.0, True, 16)
        assert found["judged_by"].startswith("j/")
        assert "Rate 0 to 100 how warm the reply is." in server.bodies[0]["messages"][0]["content"]
        assert len(server.bodies) == 32
        assert "judge: 32 scores requested" in err
        (tmp_path / "judge.toml").write_text(f'[judge]\nurl = "{server.url}"\nmodel = "j"\n')
        code, _, err = trait_extract(*call, "--judge", tmp_path / "judge.toml", "--force")
        assert (code, len(server.bodies)) == (0, 32), "scores of the same judge are kept"


def test_a_judge_that_gives_no_score_ends_the_command_without_a_vector(serve, trait_extract, instructed, tmp_path):
    url, service = serve
    call = ["run", "--trait", "warmth", "--style", "instructed", "--url", url, "--api-key", "key"]
    call += ["--datasets", instructed(metric=None).folder.parents[1], "--out", tmp_path / "vectors"]
    with judge_listening(JudgeServer(lambda *_: Fault(status=401))) as server:
        code, _, err = trait_extract(*call, "--judge-url", server.url, "--judge-model", "j")
    assert (code, "401" in err, "Traceback" in err) == (1, True, False)
    assert (service.n_requests, list((tmp_path / "vectors").glob("**/*.safetensors"))) == (0, [])
    code, _, err = trait_extract(*call, "--judge-url", "localhost", "--judge-model", "j")
    assert (code, "judge.url" in err) == (2, True)
