"""Every operation x scope x hook point x gate equals its formula in transformers. `make test-product` runs the whole product.

Here each pair of values occurs at least once in every engine, and three engines have each architecture, each runner form, and
eager and compiled; the long version has all that there are: fifteen on a CPU. All requests of an engine are one batch, so that each is also isolated.
"""

import itertools
import os

import pytest
import tiny_models
from architecture_parity import BRANCHES, USUAL_BRANCHES, assert_follows
from engine_forms import CUDA, FORMS, V1_ASYNC, V1_SYNC, V2_ASYNC, lacks_triton
from engine_harness import Reference
from parity_product import PROMPT, TOLERANCE, Product, covering, whole

pytestmark = pytest.mark.engine

VOCABULARY = 512
"""Small, since the interpreter of the V2 runner's kernels looks at every logit."""
LONG = os.environ.get("TRAIT_LONG") == "1"
ARCHITECTURES = ("LlamaForCausalLM", "Gemma3ForCausalLM", "GPT2LMHeadModel")
SHORT = (
    ("LlamaForCausalLM", V2_ASYNC, "eager"),
    ("Gemma3ForCausalLM", V1_ASYNC, "compiled"),
    ("GPT2LMHeadModel", V1_SYNC, "eager"),
)
ALL = [
    (architecture, form, mode)
    for architecture, form, mode in itertools.product(ARCHITECTURES, FORMS, ("eager", "compiled"))
    if CUDA or (form, mode) != (V2_ASYNC, "compiled")
]
"""On a CPU the V2 runner needs Triton's interpreter, and beside that TorchInductor does not compile."""
ENGINES = ALL if LONG else SHORT
OPTIONS = {"max_model_len": 128, "max_num_seqs": 200, "max_num_batched_tokens": 450, "skip_tokenizer_init": True}
"""A step reads a few prompts in pieces."""


@pytest.fixture(scope="module")
def models(smollm2_path, tmp_path_factory):
    """`models(architecture) -> folder`, made once."""
    made = {}

    def of(architecture: str):
        if architecture not in made:
            folder = tmp_path_factory.mktemp("product") / architecture
            made[architecture] = tiny_models.make(architecture, folder, smollm2_path, vocab_size=VOCABULARY)
        return made[architecture]

    return of


@pytest.fixture(scope="module", params=ENGINES, ids="-".join)
def ran(request, models, engine_hosts, tmp_path_factory):
    """The product of one model, and what one engine made of it."""
    architecture, form, mode = request.param
    if lacks_triton(form):
        pytest.skip("Triton's interpreter is not installed: make test-triton")
    path = str(models(architecture))
    cases = whole() if LONG else covering(seed=SHORT.index(request.param))
    product = Product(Reference(path), BRANCHES.get(architecture, USUAL_BRANCHES), cases)
    folder = tmp_path_factory.mktemp("engine")
    options = OPTIONS | {"enforce_eager": mode == "eager"}
    job = product.job(path, options=options, env={"VLLM_CACHE_ROOT": str(folder)}, piecewise=mode == "compiled")
    return product, engine_hosts(form).run(job, folder)


def test_each_case_equals_its_formula_and_acts_at_the_positions_of_its_scope_where_its_gate_is_open(ran, request):
    product, result = ran
    outcomes = list(product.outcomes(result))
    worst = max(outcomes, key=lambda outcome: outcome.error)
    acting = [outcome for outcome in outcomes if sum(outcome.acted)]
    moved = [outcome for outcome in acting if outcome.effect > 10 * TOLERANCE]
    print(
        f"\n{request.node.callspec.id}: {len(outcomes)} of {len(product.cases)} cases compared, {len(acting)} act, {len(moved)} move a "
        f"log-probability by more than {10 * TOLERANCE}; largest error {worst.error:.1e} ({worst.case.name})"
    )
    assert worst.error < TOLERANCE, worst
    for outcome in outcomes:
        report = result.reports[0][str(product.cases.index(outcome.case))]
        assert report["error"] is None, outcome
        assert {tuple(counts) for counts in report["acted"]} == {outcome.acted}, outcome
    # Rounding decides where a projection lies at its gate's bound; a case that changes nothing would prove nothing.
    assert len(outcomes) > 0.97 * len(product.cases)
    assert len(acting) > 0.6 * len(outcomes)
    assert len(moved) > 0.9 * len(acting)


def test_an_unsteered_neighbour_of_all_of_them_equals_the_unsteered_model(ran):
    product, result = ran
    neighbour = result.batches[0][-1]
    assert_follows(neighbour, product.reference.next_logprobs(PROMPT, neighbour["token_ids"]), "the neighbour")
