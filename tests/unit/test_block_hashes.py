"""Which block hashes a steered request gets, on vLLM's own requests and hasher: nothing runs."""

import pytest
from trait_service.engine.reply_selector import ReplyItem, ReplySelector, ReplyStart
from trait_service.engine.scheduler import branch_hashes, branch_of
from trait_service.engine.spec import EXTRA_ARGS_KEY, GateSpec, RequestSpec, TermSpec

SIZE = 16
N_TOKENS = 7 * SIZE + 3
TOKENS = list(range(1000, 1000 + N_TOKENS))
D, E = "d" * 64, "e" * 64


@pytest.fixture(scope="module")
def hashing():
    kv_cache_utils = pytest.importorskip("vllm.v1.core.kv_cache_utils")
    from vllm.utils.hashing import sha256

    kv_cache_utils.init_none_hash(sha256)
    return sha256, lambda size: kv_cache_utils.get_request_block_hasher(size, sha256)


@pytest.fixture
def hashes(hashing):
    """`hashes(terms, n_prompt=..., ...)`: a request's block hashes after all of TOKENS."""
    from vllm.lora.request import LoRARequest
    from vllm.sampling_params import SamplingParams
    from vllm.v1.request import Request

    function, hasher = hashing

    def make(*terms, n_prompt=N_TOKENS, size=SIZE, salt=None, lora=None, by=1, extra=None, mm=None, resumable=False):
        extra = RequestSpec(key="k", terms=list(terms)).to_extra_args() if terms else extra
        request = Request(
            request_id="r",
            prompt_token_ids=TOKENS[:n_prompt],
            sampling_params=SamplingParams(max_tokens=200, extra_args=extra),
            pooling_params=None,
            cache_salt=salt,
            lora_request=LoRARequest(lora, 1, f"/{lora}") if lora else None,
            block_hasher=hasher(size),
            mm_features=mm,
            resumable=resumable,
        )
        branch_hashes(request, size, function)
        for start in range(n_prompt, len(TOKENS), by):
            request.append_output_token_ids(TOKENS[start : start + by])
        return request.block_hashes

    return make


def term(scope="all", **fields) -> TermSpec:
    return TermSpec(**{"layer": 3, "direction": D, "value": 2.0, "scope": scope, **fields})


def shared(one: list, other: list) -> int:
    """Leading blocks that two requests share; behind the first different one none is equal."""
    assert len(one) == len(other)
    n = next((i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))
    assert not set(one[n:]) & set(other)
    return n


@pytest.mark.parametrize(
    ("scope", "n_prompt", "first"),
    [
        ("all", 60, 0),
        ("prompt", 60, 0),
        ("generated", 60, 59),
        ("last_prompt", 60, 59),
        ("generated", 64, 63),
        ("generated", 65, 64),
        ([47, 50], 60, 47),
        ([48, 50], 60, 48),
        ([100, 101], 60, 100),
        ("prompt[-4:]", 60, 56),
        ("response[8::4]", 60, 68),
        ("response[:] except response[:30]", 60, 90),
        ("all[70:72], prompt[-1]", 60, 59),
    ],
)
@pytest.mark.parametrize("size", [8, 16, 32])
def test_blocks_before_the_first_steered_position_are_the_baselines_and_no_other(hashes, scope, n_prompt, first, size):
    baseline = hashes(n_prompt=n_prompt, size=size)
    assert shared(hashes(term(scope), n_prompt=n_prompt, size=size), baseline) == first // size


def test_the_earliest_of_several_terms_counts(hashes):
    terms = (term("generated"), term([70, 90], direction=E), term([5, 5]))
    assert shared(hashes(*terms), hashes()) == 70 // SIZE


def test_equal_steering_of_equal_tokens_has_equal_hashes_however_the_tokens_came(hashes):
    fixed = term([20, 10**6])
    whole = hashes(fixed)
    for n_prompt in (1, 16, 17, 31, 32, 33, 80):
        for by in (1, 5, 40):
            assert hashes(fixed, n_prompt=n_prompt, by=by) == whole


@pytest.mark.parametrize(
    "other",
    [
        [term(value=2.0000002)],
        [term(value=-2.0)],
        [term(layer=4)],
        [term(direction=E)],
        [term(operation="set")],
        [term(operation="ceiling")],
        [term(operation="ablate")],
        [term(preserve_norm=True)],
        [term([0, 50])],
        [term("all[::2]")],
        [term("all[:] except all[100]")],
        [term("prompt")],
        [term(), term()],
        [term(direction=E), term()],
    ],
)
def test_any_difference_of_the_steering_shares_no_steered_block(hashes, other):
    assert shared(hashes(term(), n_prompt=60), hashes(*other, n_prompt=60)) == 0


@pytest.mark.parametrize("other", [{"first": 40}, {"opened": True}, {"begin": 9}, {"end": 9}, {"item": {"start": 1}}])
def test_a_scope_of_the_reply_parts_from_its_first_position_on_and_any_difference_parts_it(hashes, other):
    def scoped(**fields):
        item = ReplyItem(part="thinking", **fields.pop("item", {}))
        start = ReplyStart(**{"first": 60, "begin": 7, "end": 8} | fields)
        return term([0, 0], reply=ReplySelector(reply=start, select=(item,)))

    one = hashes(scoped(), n_prompt=60)
    assert one == hashes(scoped(), n_prompt=60)
    assert shared(one, hashes(n_prompt=60)) == 60 // SIZE
    assert shared(one, hashes(scoped(**other), n_prompt=60)) == other.get("first", 60) // SIZE


@pytest.mark.parametrize(
    "other", [{"above": 2.0}, {"below": 1.0}, {"layer": 1}, {"direction": D}, {"hold": "latch"}, {"above": 1.0000001}]
)
def test_any_difference_of_a_gate_shares_no_steered_block(hashes, other):
    def gated(**fields):
        bound = {} if "below" in fields else {"above": 1.0}
        return term("prompt[20:]", when=GateSpec(**{"layer": 2, "direction": E} | bound | fields))

    one = hashes(gated(), n_prompt=60)
    assert one == hashes(gated(), n_prompt=60)
    assert shared(one, hashes(gated(**other), n_prompt=60)) == 20 // SIZE
    assert shared(one, hashes(term("prompt[20:]"), n_prompt=60)) == 20 // SIZE


def test_the_order_of_terms_counts(hashes):
    one, other = term(operation="ablate"), term(direction=E)
    assert shared(hashes(one, other), hashes(other, one)) == 0


def test_ways_to_say_the_same_share(hashes):
    assert hashes(term("prompt")) == hashes(term([0, len(TOKENS)])) == hashes(term("prompt[:]"))
    assert hashes(term("generated"), n_prompt=60) == hashes(term("prompt[-1], response[:]"), n_prompt=60)
    assert hashes(term(operation="ablate", value=3.0)) == hashes(term(operation="set", value=0.0))
    assert hashes(term([9, 9])) == hashes()


def test_salts_and_adapters_still_part_requests(hashes):
    generated = term("generated")
    assert shared(hashes(generated, salt="mine", n_prompt=60), hashes(salt="mine", n_prompt=60)) == 3
    assert shared(hashes(generated, lora="a", n_prompt=60), hashes(lora="a", n_prompt=60)) == 3
    for fields in ({"salt": "mine"}, {"salt": "theirs"}, {"lora": "a"}, {"lora": "b"}):
        assert shared(hashes(generated, **fields), hashes(generated)) == 0


def test_a_capture_alone_shares_everything(hashes):
    capture = {EXTRA_ARGS_KEY: '{"key": "k", "capture": {"positions": ["prompt[:]"]}}'}
    assert hashes(extra=capture) == hashes()


@pytest.mark.parametrize("broken", ["{broken", 7, '{"key": "k"}', '{"key": "k", "terms": [{"layer": -1}]}'])
def test_a_spec_that_is_not_understood_shares_with_nobody_not_even_itself(hashes, broken):
    extra = {EXTRA_ARGS_KEY: broken}
    one = hashes(extra=extra)
    assert shared(one, hashes()) == 0
    assert shared(one, hashes(extra=extra)) == 0


def test_a_streaming_session_that_is_steered_shares_with_nobody(hashes):
    assert shared(hashes(term("generated"), resumable=True), hashes()) == 0


def test_an_image_is_not_cut_in_two(hashes):
    """Its tokens may attend to later ones of the same image."""
    from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange

    image = MultiModalFeatureSpec(
        data=None, modality="image", identifier="i", mm_position=PlaceholderRange(offset=20, length=40)
    )
    assert shared(hashes(term([50, 70]), mm=[image]), hashes(mm=[image])) == 20 // SIZE
    assert shared(hashes(term([60, 70]), mm=[image]), hashes(mm=[image])) == 60 // SIZE


def test_a_scope_that_cannot_be_told_shares_with_nobody(hashes):
    assert shared(hashes(term("response[-4:]")), hashes()) == 0


def test_nothing_touched_is_no_branch():
    assert branch_of([term([4, 4]), term([9, 3]), term("prompt[70:]")], 60) is None
