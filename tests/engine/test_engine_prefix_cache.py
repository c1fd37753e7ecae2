"""Cached blocks serve the steering that made them and no other; what lies before the first steered position is shared."""

from dataclasses import dataclass, replace

import pytest
from engine_forms import V1_ASYNC, V1_SYNC, in_forms
from engine_harness import Job, Req, difference, direction
from trait_service.engine.reply_selector import ReplyItem, ReplySelector, ReplyStart
from trait_service.engine.spec import CaptureSpec, RequestSpec, TermSpec

pytestmark = [pytest.mark.engine, in_forms(V1_SYNC, V1_ASYNC)]

BLOCK = 32
N_PROMPT = 120  # three full blocks; generated-only steering begins in the fourth
N_TOKENS = 3
N_LONG = 12  # the last is never computed: four full blocks of prompt and reply
LAYER = 8
END = 2**31 - 1


@dataclass
class Case:
    """One request, in its place in the order, and how many of its tokens the cache must answer."""

    name: str
    request: Req
    terms: list[TermSpec]
    cached: int

    def same(self) -> tuple:
        """Equal for requests that must get equal logprobs."""
        extra = str(self.request.extra_args)
        return str(self.terms), self.request.continues, tuple(self.request.token_ids), self.request.max_tokens, extra


class Story:
    """Requests one after another on one engine; then each once more with nothing read from the cache.

    `continued`: tokens that a request reads whose prompt is an earlier prompt and reply.
    """

    def __init__(self, prompt: list[int], d_model: int, value: float, continued: int) -> None:
        self.prompt = prompt
        self.continued = continued
        self.a, self.b, self.late = (direction(d_model, seed) for seed in range(3))
        self.value = value
        self.cases: list[Case] = []

    def term(self, scope="all", made=None, **fields) -> TermSpec:
        given = {"layer": LAYER, "direction": (made or self.a).sha256, "value": self.value, "scope": scope, **fields}
        return TermSpec(**given)

    def answer(self) -> ReplySelector:
        """The answer of a reply without reasoning."""
        start = ReplyStart(first=len(self.prompt), begin=1, end=2)
        return ReplySelector(reply=start, select=(ReplyItem(part="answer"),))

    def then(self, name: str, *terms: TermSpec, cached: int, after: str | None = None, **fields) -> None:
        spec = RequestSpec(key=name, terms=list(terms)).model_dump_json() if terms else None
        given = {"token_ids": self.prompt, "max_tokens": N_TOKENS, "skip_cache": False, **fields}
        if after is not None:
            given["continues"] = (self.place(after), 0)
        self.cases.append(Case(name, Req(spec=spec, **given), list(terms), cached))

    def place(self, name: str) -> int:
        return [case.name for case in self.cases].index(name)

    def alone(self) -> dict[tuple, Req]:
        """Every different request once, under a salt of its own."""
        requests = {}
        for case in self.cases:
            spec = RequestSpec(key=f"alone {case.name}", terms=case.terms).model_dump_json() if case.terms else None
            requests[case.same()] = replace(case.request, spec=spec, salt=f"alone {case.name}", skip_cache=True)
        return requests

    def batches(self) -> list[list[Req]]:
        return [*([case.request] for case in self.cases), list(self.alone().values())]


def tell(story: Story) -> None:
    """What this project promises of the prefix cache, as a sequence of requests with one prompt."""
    term = story.term
    story.then("baseline", cached=0, max_tokens=N_LONG)
    story.then("generated A", term("generated"), cached=96, max_tokens=N_LONG)
    story.then("generated B", term("generated", story.b), cached=96)
    story.then("last prompt token", term("last_prompt"), cached=96)
    story.then("all", term(), cached=0, max_tokens=N_LONG)
    story.then("all again", term(), cached=96)
    story.then("all, other number", term(value=story.value * 1.0001), cached=0)
    story.then("all, other operation", term(operation="set"), cached=0)
    story.then("prompt", term("prompt"), cached=0)
    story.then("positions in the second block", term([40, 80]), cached=32)
    story.then("positions in the second block again", term([40, 80]), cached=96)
    story.then("positions from a block's start", term([64, 66]), cached=64)
    story.then("the earliest of two", term("generated"), term([70, END], story.b), cached=64)
    story.then("baseline again", cached=96)
    # The fourth block of prompt and reply begins in the prompt and is full.
    story.then("baseline continued", after="baseline", cached=story.continued)
    story.then("baseline reads what A wrote", after="generated A", cached=96)
    story.then("B reads what the baseline just read", term("generated", story.b), after="generated A", cached=128)
    story.then("steered where A was", term([N_PROMPT - 1, END]), after="generated A", cached=story.continued)
    story.then("all continued", term(), after="all", cached=story.continued)
    story.then("all continued, other number", term(value=story.value * 1.0001), after="all", cached=96)
    # What depends on the tokens of the reply: the reply's blocks serve the same scope after the same prompt, and no other.
    story.then("scope of the reply", term([0, 0], reply=story.answer()), cached=96, max_tokens=N_LONG)
    story.then("baseline reads what it wrote", after="scope of the reply", cached=96)
    # A user's salt parts everything, and within it the same is shared.
    story.then("salted", salt="mine", cached=0)
    story.then("salted, generated", term("generated"), salt="mine", cached=96)
    story.then("salted, all", term(), salt="mine", cached=0)
    # What could not be steered leaves nothing behind.
    other = {"token_ids": [*reversed(story.prompt)]}
    story.then("not in the bank", term("all", story.late), cached=0, **other)
    story.then("in the bank now", term("all", story.late), cached=0, **other)
    story.then("not understood", cached=0, extra_args={"trait_steering": "{broken"}, **other)
    story.then("baseline of the other prompt", cached=0, **other)


FAIL = ("not in the bank", "not understood")


@pytest.fixture(scope="module", params=["smollm2", "gemma"])
def told(request, reference, run_engine):
    path = request.getfixturevalue(f"{request.param}_path")
    ref = reference(path)
    text = "The market opens at seven in the morning, and people walk between the tables. Some of them buy fruit. " * 9
    prompt = ref.tokenizer.encode(text)[:N_PROMPT]
    # vLLM caches no generated blocks of sliding-window layers, steered or not.
    continued = {"smollm2": 128, "gemma": 96}[request.param]
    story = Story(prompt, ref.d_model, float(ref.streams(prompt)[LAYER, 4:].norm(dim=-1).mean()), continued)
    tell(story)
    job = Job(
        path,
        story.batches(),
        directions=[story.a, story.b],
        late={story.place("in the bank now"): [story.late]},
        options={"block_size": BLOCK, "max_model_len": 256},
    )
    return story, run_engine(job)


def test_only_blocks_before_the_first_steered_position_and_those_of_equal_steering_are_shared(told):
    story, result = told
    cached = {case.name: result.batches[i][0]["cached"] for i, case in enumerate(story.cases)}
    assert cached == {case.name: case.cached for case in story.cases}


def test_logprobs_are_those_of_a_request_that_read_nothing_from_the_cache(told):
    story, result = told
    alone = dict(zip(story.alone(), result.batches[-1], strict=True))
    assert not any(output["cached"] for output in alone.values())
    for case, (output,) in zip(story.cases, result.batches[:-1], strict=True):
        if case.name in FAIL:
            assert output["text"] == "", case.name
        else:
            assert difference(output, alone[case.same()]) < 1e-3, case.name


def test_the_configurations_differ(told):
    """So that a block of another's would be seen."""
    story, result = told
    names = ["baseline", "generated A", "generated B", "all", "all, other operation", "positions in the second block"]
    second = [result.batches[story.place(name)][0]["logprobs"][1] for name in names]
    for i, one in enumerate(second):
        for other in second[i + 1 :]:
            assert max(abs(one[token] - other.get(token, -99.0)) for token in one) > 0.01


def test_the_report_says_how_many_steered_positions_came_from_the_cache(told):
    story, result = told

    def counts(name: str) -> tuple[int, int, int]:
        report = result.reports[story.place(name)][name]
        return report["steered_prompt"], report["steered_generated"], report["steered_cached"]

    assert counts("generated A") == (1, N_LONG - 1, 0)
    assert counts("scope of the reply") == (0, N_LONG - 1, 0)
    assert counts("all") == (N_PROMPT, N_LONG - 1, 0)
    assert counts("all again") == (N_PROMPT, N_TOKENS - 1, 96)
    assert counts("positions in the second block") == (40, 0, 0)
    assert counts("positions in the second block again") == (40, 0, 40)
    # The prompt is A's prompt and reply: positions 119 to 127 were read from A's block, where vLLM kept it.
    assert counts("steered where A was") == (N_LONG + 1, N_TOKENS - 1, max(0, story.continued - 119))
    assert "not in the vector bank" in result.reports[story.place("not in the bank")]["not in the bank"]["error"]


def test_a_request_whose_capture_fails_still_computes_what_its_steering_says(run_engine, reference, smollm2_path):
    """Its blocks are found by requests of equal steering, in the same step already."""
    ref = reference(smollm2_path)
    made = direction(ref.d_model, 5)
    ids = ref.tokenizer.encode("A cold wind came down from the hills that evening. " * 12)[:70]

    def asked(key: str, capture: CaptureSpec | None = None, **fields) -> Req:
        term = TermSpec(layer=LAYER, direction=made.sha256, value=40.0)
        spec = RequestSpec(key=key, terms=[term], capture=capture)
        return Req(ids, spec.model_dump_json(), 4, **{"skip_cache": False, **fields})

    two_pools = CaptureSpec(positions=["response[:]", "all[69:]"])
    batches = [[asked("fails", two_pools), asked("reads")], [asked("alone", skip_cache=True, salt="alone")]]
    options = {"block_size": BLOCK, "max_model_len": 256}
    result = run_engine(Job(smollm2_path, batches, directions=[made], options=options, settings={"capture_rows": 1}))
    fails, reads = result.batches[0]
    assert "capture" in result.reports[0]["fails"]["error"]
    assert fails["text"] == ""
    assert reads["cached"] == 64
    assert difference(reads, result.batches[1][0]) < 1e-3


def test_an_engine_without_our_scheduler_does_not_start(run_engine, smollm2_path):
    options = {"scheduler_cls": "vllm.v1.core.sched.scheduler.Scheduler"}
    with pytest.raises(AssertionError, match="share prefix-cache blocks"):
        run_engine(Job(smollm2_path, [], options=options))
