"""Steering and capture equal transformers with a forward hook on the same block (float32)."""

import os
from functools import cached_property

import numpy as np
import pytest
import torch
from engine_harness import (
    Direction,
    EngineResult,
    Job,
    Reference,
    Req,
    assert_guesses_equal,
    assert_lens_equals,
    direction,
    largest_difference,
)
from parity_product import turned
from trait_core.schema import HookPoint
from trait_service.engine.spec import CaptureSpec, LensSpec, MonitorColumn, MonitorSpec, RequestSpec, TermSpec

pytestmark = pytest.mark.engine

N_TOKENS = 12
N_GRID_TOKENS = 3
N_MONITORED, N_MONITORED_OTHERS = 256, 5
SMOLLM2_LAYERS = 30
LONG = os.environ.get("TRAIT_LONG") == "1"
OF_THE_LONG_RUN = "minutes on Gemma, whose tiny kin is in test_engine_product: `make test-product` runs it"
TEXTS = [
    "The museum opens at nine, and the first visitors are usually",
    "Here is what I would tell a friend who wants to learn the piano:",
    "When the river rises in spring, the farmers along its banks",
]
CAPTURED = [
    "prompt[:]",
    "prompt[-1]",
    "response[:]",
    "response[:5]",
    "all[4:]",
    "all[1::3]",
    "prompt[:2], response[:4] except response[1]",
]
SELECTOR = "prompt[-4:], response[1::2] except prompt[-2]"


class Lab:
    """One engine's run over every parity case, and the reference beside it."""

    def __init__(self, ref: Reference, path: str, options: dict, branches: dict[HookPoint, str]) -> None:
        self.ref = ref
        self.path = path
        self.options = options
        self.branches = branches
        self.is_gemma = ref.model.config.model_type.startswith("gemma")
        self.settings = {"hook_points": list(branches)}
        self.direction: Direction = direction(ref.d_model, seed=7)
        self.prompts = [ref.tokenizer.encode(text) for text in TEXTS]
        self.layers = [0, ref.n_layers // 2, ref.n_layers - 1]
        streams = ref.streams(self.prompts[0])
        self.a = {layer: 0.6 * float(streams[layer, 4:].norm(dim=-1).mean()) for layer in self.layers}
        # A direction along which the stream really lies, so that every operation has something to act on.
        mean = streams[self.layers[1], 4:].mean(0).numpy()
        self.mean_direction = Direction(mean / np.linalg.norm(mean))
        self.mean_projection = float(np.linalg.norm(mean))
        self.monitored = [direction(ref.d_model, seed=100 + i) for i in range(N_MONITORED)]
        self.directions = [self.direction, self.mean_direction, *self.monitored]
        self.result: EngineResult | None = None

    def spec(self, key: str, layer: int, value: float, scope="all", capture: CaptureSpec | None = None) -> str:
        term = TermSpec(layer=layer, direction=self.direction.sha256, value=value, scope=scope)
        return RequestSpec(key=key, terms=[term], capture=capture).model_dump_json()

    def batch(self) -> list[Req]:
        """All in one batch: steered at each layer, generated-only, coefficient 0, unsteered, captured and monitored, monitored."""
        steered = [Req(self.prompts[0], self.spec(f"layer-{layer}", layer, self.a[layer])) for layer in self.layers]
        middle = self.layers[1]
        read = RequestSpec(
            key="read", capture=CaptureSpec(positions=CAPTURED), monitor=MonitorSpec(columns=self.columns(N_MONITORED))
        ).model_dump_json()
        others = MonitorSpec(columns=self.columns(N_MONITORED_OTHERS, cosine=True), prompt=False)
        return [
            *steered,
            Req(self.prompts[1], self.spec("generated", middle, self.a[middle], scope="generated")),
            Req(self.prompts[2], self.spec("zero", middle, 0.0)),
            Req(self.prompts[2]),
            Req(self.prompts[1], read),
            Req(self.prompts[2], RequestSpec(key="others", monitor=others).model_dump_json()),
            Req(self.prompts[0], self.guessing),
        ]

    @property
    def guessing(self) -> str:
        """Steered at a middle layer, and read there and at the last one."""
        _, middle, last = self.layers
        term = TermSpec(layer=middle, direction=self.direction.sha256, value=self.a[middle])
        return RequestSpec(key="lens", terms=[term], lens=LensSpec(layers=[last, middle], top_k=7)).model_dump_json()

    def job(self, batches: list[list[Req]], **fields) -> Job:
        """A job with this model, the directions and the hook points."""
        options = self.options | fields.pop("options", {})
        return Job(self.path, batches, self.directions, options=options, settings=self.settings, **fields)

    def branch_batch(self) -> list[Req]:
        """For each further hook point: steered at a middle layer and read at all, and two operations that look at what is added."""
        middle, made = self.layers[1], []
        for at in self.branches:
            capture = CaptureSpec(positions=["all[:]"], at=at)
            column = MonitorColumn(layer=middle, direction=self.direction.sha256, at=at)
            monitor = MonitorSpec(columns=[column])
            for operation, value in {"add": self.a[middle], "floor": self.a[middle], "replace": self.a[middle]}.items():
                term = TermSpec(
                    layer=middle,
                    at=at,
                    direction=self.direction.sha256,
                    operation=operation,
                    value=value,
                    scope=[2, 2**31 - 1],
                )
                spec = RequestSpec(key=f"{operation} {at}", terms=[term], capture=capture, monitor=monitor)
                made.append(Req(self.prompts[0], spec.model_dump_json(), N_GRID_TOKENS))
        return made

    def branch_changes(self) -> dict[str, tuple[str, dict]]:
        """The same: path of the module, and what its output becomes, written out."""
        d, a, middle = torch.from_numpy(self.direction.array), self.a[self.layers[1]], self.layers[1]
        moved = {
            "add": lambda h: h + a * d,
            "floor": lambda h: h + torch.clamp(a - h @ d, min=0)[:, None] * d,
            "replace": (a * d).expand_as,
        }

        def late(change):
            return lambda h, at: torch.where((at >= 2)[:, None], change(h), h)

        return {
            f"{operation} {at}": (path, {(middle, path): late(change)})
            for at, path in self.branches.items()
            for operation, change in moved.items()
        }

    def columns(self, n: int, *, cosine: bool = False) -> list[MonitorColumn]:
        """The first `n` monitored directions, on all of the layers by turns."""
        return [
            MonitorColumn(layer=self.layers[i % len(self.layers)], direction=made.sha256, cosine=cosine)
            for i, made in enumerate(self.monitored[:n])
        ]

    def projections(self, ids: list[int], n: int) -> np.ndarray:
        """`(n_tokens, n)`: those of transformers' hidden states on these columns."""
        streams = self.ref.streams(ids).numpy()
        return np.stack(
            [streams[self.layers[i % len(self.layers)]] @ made.array for i, made in enumerate(self.monitored[:n])],
            axis=1,
        )

    def operations(self) -> dict[str, tuple[list[TermSpec], dict]]:
        """Name -> terms, and what they do to the stream, written out."""
        middle, d, p = self.layers[1], torch.from_numpy(self.mean_direction.array), self.mean_projection

        def term(operation="add", value=0.0, layer=middle, **options) -> TermSpec:
            return TermSpec(
                layer=layer, direction=self.mean_direction.sha256, operation=operation, value=value, **options
            )

        def along(amount):
            return lambda h, _: h + amount(h @ d)[:, None] * d

        def kept_norm(h, _):
            moved = h - p * d
            return moved * (h.norm(dim=-1) / moved.norm(dim=-1))[:, None]

        def ordered(h, at):
            h = h - (h @ d)[:, None] * d
            h = h + 0.4 * p * d * (at >= 3)[:, None]
            return h + (torch.clamp(0.2 * p - h @ d, max=0) * (at < 6))[:, None] * d

        return {
            "ablate": ([term("ablate")], {middle: along(lambda x: -x)}),
            "set": ([term("set", 0.3 * p)], {middle: along(lambda x: 0.3 * p - x)}),
            "scale": ([term("scale", 0.2)], {middle: along(lambda x: -0.8 * x)}),
            "floor": ([term("floor", 1.1 * p)], {middle: along(lambda x: torch.clamp(1.1 * p - x, min=0))}),
            "ceiling": ([term("ceiling", 0.5 * p)], {middle: along(lambda x: torch.clamp(0.5 * p - x, max=0))}),
            "replace": ([term("replace", 4 * p)], {middle: lambda h, _: (4 * p * d).expand_as(h)}),
            "rotate": ([term("rotate", 25.0)], {middle: lambda h, _: turned(h, d, 25.0)}),
            "preserve_norm": ([term("add", -p, preserve_norm=True)], {middle: kept_norm}),
            "three terms on one layer, in order, each with its own scope": (
                [
                    term("ablate"),
                    term("add", 0.4 * p, scope=[3, 2**31 - 1]),
                    term("ceiling", 0.2 * p, scope=[0, 6]),
                ],
                {middle: ordered},
            ),
            "every layer": (
                [term("ablate", layer=layer) for layer in range(self.ref.n_layers)],
                {layer: along(lambda x: -x) for layer in range(self.ref.n_layers)},
            ),
        }

    def grid(self) -> dict[str, tuple[TermSpec, dict]]:
        """Every operation in every scope: name -> term, and what it does to the stream, written out."""
        middle, d, p = self.layers[1], torch.from_numpy(self.mean_direction.array), self.mean_projection
        n = len(self.prompts[0])
        masks = {
            "all": lambda at: at >= 0,
            "prompt": lambda at: at < n,
            "generated": lambda at: at >= n - 1,
            "last_prompt": lambda at: at == n - 1,
            "positions": lambda at: (at >= 2) & (at < n + 1),
            SELECTOR: lambda at: ((at >= n - 4) & (at < n) & (at != n - 2)) | ((at > n) & ((at - n) % 2 == 1)),
        }
        operations = {
            "add": (0.5 * p, lambda h: h + 0.5 * p * d),
            "ablate": (0.0, lambda h: h - (h @ d)[:, None] * d),
            "set": (0.3 * p, lambda h: h + (0.3 * p - h @ d)[:, None] * d),
            "scale": (0.2, lambda h: h - 0.8 * (h @ d)[:, None] * d),
            "floor": (1.3 * p, lambda h: h + torch.clamp(1.3 * p - h @ d, min=0)[:, None] * d),
            "ceiling": (0.5 * p, lambda h: h + torch.clamp(0.5 * p - h @ d, max=0)[:, None] * d),
            "replace": (4 * p, (4 * p * d).expand_as),
            "rotate": (-25.0, lambda h: turned(h, d, -25.0)),
        }

        def within(mask, moved):
            return lambda h, at: torch.where(mask(at)[:, None], moved(h), h)

        def norm_kept(moved):
            return lambda h: moved(h) * (h.norm(dim=-1) / moved(h).norm(dim=-1))[:, None]

        cases = {}
        for scope, mask in masks.items():
            for operation, (value, moved) in operations.items():
                for preserve_norm in (False, True):
                    term = TermSpec(
                        layer=middle,
                        direction=self.mean_direction.sha256,
                        operation=operation,
                        value=value,
                        scope=[2, n + 1] if scope == "positions" else scope,
                        preserve_norm=preserve_norm,
                    )
                    change = within(mask, norm_kept(moved) if preserve_norm else moved)
                    cases[f"{operation} {scope}{' norm kept' * preserve_norm}"] = (term, {middle: change})
        return cases

    def grid_batch(self) -> list[Req]:
        """The whole grid in one batch."""
        return [
            Req(self.prompts[0], RequestSpec(key=name, terms=[term]).model_dump_json(), N_GRID_TOKENS)
            for name, (term, _) in self.grid().items()
        ]

    @cached_property
    def grid_reference(self) -> dict[str, tuple[list[int], torch.Tensor]]:
        """Tokens and log-probabilities of each case."""
        return {
            name: self.ref.greedy(self.prompts[0], N_GRID_TOKENS, changes) for name, (_, changes) in self.grid().items()
        }

    def operations_batch(self) -> list[Req]:
        """All operations at once, in one batch."""
        return [
            Req(self.prompts[0], RequestSpec(key=name, terms=terms).model_dump_json())
            for name, (terms, _) in self.operations().items()
        ]

    def add(self, layer: int, start: int = 0):
        d = torch.from_numpy(self.direction.array)

        def change(stream, positions):
            return stream + self.a[layer] * d * (positions >= start)[:, None]

        return change


LABS = {
    "smollm2": ({}, {"mlp_out": "mlp"}),
    "gemma": ({}, {"attn_out": "post_attention_layernorm", "mlp_out": "post_feedforward_layernorm"}),
    # vLLM runs transformers' own layers, with a batch of one
    "tiny_llama": ({"model_impl": "transformers"}, {"attn_out": "self_attn", "mlp_out": "mlp"}),
}
"""Model -> options of its engine, and its hook points with their modules in transformers' blocks."""


@pytest.fixture(scope="module", params=list(LABS))
def lab(request, reference, run_engine) -> Lab:
    path = str(request.getfixturevalue(f"{request.param}_path"))
    made = Lab(reference(path), path, *LABS[request.param])
    made.result = run_engine(
        made.job(
            [made.batch(), made.operations_batch(), made.grid_batch(), made.branch_batch()], lens=made.directions[:2]
        )
    )
    return made


def test_addition_at_the_first_a_middle_and_the_last_layer_equals_a_hook_on_the_same_block(lab):
    for i, layer in enumerate(lab.layers):
        output = lab.result.batches[0][i]
        tokens, logprobs = lab.ref.greedy(lab.prompts[0], N_TOKENS, {layer: lab.add(layer)})
        assert output["token_ids"] == tokens, f"layer {layer}"
        assert largest_difference(output["logprobs"], logprobs) < 1e-3, f"layer {layer}"


def test_steering_takes_effect_at_each_layer(lab):
    _, plain = lab.ref.greedy(lab.prompts[0], 1)
    for i, layer in enumerate(lab.layers):
        assert largest_difference(lab.result.batches[0][i]["logprobs"][:1], plain) > 0.05, f"layer {layer}"


def test_generated_scope_steers_from_the_last_prompt_position(lab):
    middle = lab.layers[1]
    start = len(lab.prompts[1]) - 1
    tokens, logprobs = lab.ref.greedy(lab.prompts[1], N_TOKENS, {middle: lab.add(middle, start)})
    output = lab.result.batches[0][3]
    assert output["token_ids"] == tokens
    assert largest_difference(output["logprobs"], logprobs) < 1e-3


def test_coefficient_zero_and_an_unsteered_neighbour_equal_the_unsteered_model(lab):
    tokens, logprobs = lab.ref.greedy(lab.prompts[2], N_TOKENS)
    zero, neighbour = lab.result.batches[0][4], lab.result.batches[0][5]
    assert zero["token_ids"] == neighbour["token_ids"] == tokens
    assert zero["logprobs"] == neighbour["logprobs"]
    assert largest_difference(neighbour["logprobs"], logprobs) < 1e-3


def test_every_operation_equals_its_formula_in_a_hook_and_takes_effect(lab):
    _, plain = lab.ref.greedy(lab.prompts[0], 1)
    for output, (name, (_, changes)) in zip(lab.result.batches[1], lab.operations().items(), strict=True):
        tokens, logprobs = lab.ref.greedy(lab.prompts[0], N_TOKENS, changes)
        assert output["token_ids"] == tokens, name
        assert largest_difference(output["logprobs"], logprobs) < 1e-3, name
        assert largest_difference(output["logprobs"][:1], plain) > 0.02, name


def assert_grid_equals(lab, outputs):
    for output, (name, (tokens, logprobs)) in zip(outputs, lab.grid_reference.items(), strict=True):
        assert output["token_ids"] == tokens, name
        assert largest_difference(output["logprobs"], logprobs) < 1e-3, name


def test_every_operation_in_every_scope_equals_its_formula_in_a_hook(lab):
    if lab.is_gemma and not LONG:
        pytest.skip(OF_THE_LONG_RUN)
    assert_grid_equals(lab, lab.result.batches[2])
    _, plain = lab.ref.greedy(lab.prompts[0], N_GRID_TOKENS)
    moved = {name: float((logprobs - plain).abs().max()) for name, (_, logprobs) in lab.grid_reference.items()}
    assert min(moved.values()) > 0.01, "a case that changes nothing would prove nothing"


def test_report_counts_the_positions_that_were_steered(lab):
    reports = lab.result.reports[0]
    first = reports[f"layer-{lab.layers[0]}"]
    assert (first["steered_prompt"], first["steered_generated"]) == (len(lab.prompts[0]), N_TOKENS - 1)
    generated = reports["generated"]
    assert (generated["steered_prompt"], generated["steered_generated"]) == (1, N_TOKENS - 1)
    assert (reports["read"]["steered_prompt"], reports["read"]["steered_generated"]) == (0, 0)


@pytest.mark.parametrize("pool", range(len(CAPTURED)), ids=CAPTURED)
def test_capture_equals_the_hidden_states_after_each_block(lab, pool):
    captures = lab.result.captures(0)
    prompt, generated = lab.prompts[1], lab.result.batches[0][6]["token_ids"]
    n = len(prompt)
    seen = [*prompt, *generated[:-1]]
    streams = lab.ref.streams(seen).numpy()
    slices = [slice(0, n), slice(n - 1, n), slice(n, None), slice(n, n + 5), slice(4, None), slice(1, None, 3)]
    at = [*(np.arange(len(seen))[each] for each in slices), np.array([0, 1, n, n + 2, n + 3])][pool]
    assert captures["read/count"][pool] == len(at)
    expected = streams[:, at].mean(1)
    error = np.linalg.norm(captures["read/mean"][pool] - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert error.max() < 1e-3
    norms = np.linalg.norm(streams[:, at], axis=-1).mean(1)
    np.testing.assert_allclose(captures["read/norm"][pool], norms, rtol=1e-3)


def test_projections_of_every_token_on_hundreds_of_directions_equal_those_of_the_hidden_states(lab):
    seen = [*lab.prompts[1], *lab.result.batches[0][6]["token_ids"][:-1]]
    expected = lab.projections(seen, N_MONITORED)
    got = lab.result.captures(0)["read/projections/0"]
    assert got.shape == expected.shape == (len(seen), N_MONITORED)
    assert np.abs(got - expected).max() / np.abs(expected).max() < 1e-3


def test_a_neighbour_with_other_directions_gets_the_cosines_of_its_own(lab):
    prompt = lab.prompts[2]
    seen = [*prompt, *lab.result.batches[0][7]["token_ids"][:-1]]
    norms = np.linalg.norm(lab.ref.streams(seen).numpy(), axis=-1)
    of_columns = [lab.layers[i % len(lab.layers)] for i in range(N_MONITORED_OTHERS)]
    expected = (lab.projections(seen, N_MONITORED_OTHERS) / norms[of_columns].T)[len(prompt) - 1 :]
    got = lab.result.captures(0)["others/projections/0"]
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < 1e-3


def test_the_lens_says_what_transformers_norm_and_head_make_of_the_steered_stream(lab):
    assert_guessed(lab, lab.result)


def assert_guessed(lab, result):
    """The lens's readings at a middle and the last layer equal transformers'; the last layer says the token that follows."""
    _, middle, last = lab.layers
    output, rows = result.batches[0][8], result.captures(0)["lens/lens/0"]
    seen = [*lab.prompts[0], *output["token_ids"][:-1]]
    expected = lab.ref.guesses(seen, [last, middle], {middle: lab.add(middle)})[len(lab.prompts[0]) - 1 :]
    assert_guesses_equal(rows, expected)
    assert rows.reshape(len(rows), 2, 2, -1)[:, 0, 0, 0].tolist() == output["token_ids"], (
        "the last layer says the token"
    )


def test_directions_are_read_as_tokens_through_the_models_own_norm_and_head(lab):
    assert_lens_equals(lab.result, lab.ref, lab.directions[:2])


def assert_branches_equal(lab, result, batch: int):
    """Steered at each further hook point, the text equals that of a hook on the module; what is read there is the steered output."""
    captures = result.captures(batch)
    for output, (name, (path, changes)) in zip(result.batches[batch], lab.branch_changes().items(), strict=True):
        tokens, logprobs = lab.ref.greedy(lab.prompts[0], N_GRID_TOKENS, changes)
        assert output["token_ids"] == tokens, name
        assert largest_difference(output["logprobs"], logprobs) < 1e-3, name
        with lab.ref.changed(changes):
            added = lab.ref.streams([*lab.prompts[0], *tokens[:-1]], path).numpy()
        expected = added.mean(1)
        error = np.linalg.norm(captures[f"{name}/mean"][0] - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
        assert error.max() < 1e-3, name
        along = added[lab.layers[1]] @ lab.direction.array
        assert np.abs(captures[f"{name}/projections/0"][:, 0] - along).max() / np.abs(along).max() < 1e-3, name


def test_what_attention_and_mlp_add_is_steered_and_read_like_by_a_hook_on_the_module(lab):
    assert_branches_equal(lab, lab.result, 3)
    _, plain = lab.ref.greedy(lab.prompts[0], 1)
    for output, name in zip(lab.result.batches[3], lab.branch_changes(), strict=True):
        assert largest_difference(output["logprobs"][:1], plain) > 0.01, f"{name} changes nothing"


@pytest.mark.slow
def test_compiled_equals_a_hook_too_with_a_cache_that_an_engine_without_the_plugin_wrote(lab, run_engine, tmp_path):
    if lab.is_gemma and not LONG:
        pytest.skip(OF_THE_LONG_RUN)
    env = {"VLLM_CACHE_ROOT": str(tmp_path)}
    options = {**lab.options, "enforce_eager": False}
    plain = run_engine(Job(lab.path, [[Req(lab.prompts[0])]], plugin=False, env=env, options=options))
    tokens, logprobs = lab.ref.greedy(lab.prompts[0], N_TOKENS)
    assert plain.batches[0][0]["token_ids"] == tokens
    job = lab.job([lab.batch(), lab.grid_batch(), lab.branch_batch()], env=env, options=options)
    # A new graph beside the cached one; with SmolLM2 once more, from the warm cache of that.
    repeats = 2 if lab.ref.n_layers == SMOLLM2_LAYERS else 1
    for result in (run_engine(job) for _ in range(repeats)):
        for i, layer in enumerate(lab.layers):
            output = result.batches[0][i]
            tokens, logprobs = lab.ref.greedy(lab.prompts[0], N_TOKENS, {layer: lab.add(layer)})
            assert output["token_ids"] == tokens, f"layer {layer}"
            assert largest_difference(output["logprobs"], logprobs) < 1e-3, f"layer {layer}"
        assert_grid_equals(lab, result.batches[1])
        assert_branches_equal(lab, result, 2)
        for name in ("read/mean", "read/projections/0"):
            eager, compiled = lab.result.captures(0)[name], result.captures(0)[name]
            assert np.abs(compiled - eager).max() / np.abs(eager).max() < 1e-3, name


@pytest.mark.slow
def test_two_workers_steer_and_capture_like_one(lab, run_engine):
    """Tensor parallel where vLLM can divide the attention heads (Gemma's 4), else in a pipeline (SmolLM2 has 9)."""
    if lab.options:
        pytest.skip("two workers of transformers' own layers steer as two of vLLM's: the worker is the same")
    heads = lab.ref.model.config.get_text_config().num_attention_heads
    options = {**lab.options, "distributed_executor_backend": "mp"}
    if heads % 2 == 0:
        options["tensor_parallel_size"] = 2
    else:
        # So few tokens a step that both stages are busy with steps of their own.
        options |= {"pipeline_parallel_size": 2, "max_num_seqs": 8, "max_num_batched_tokens": 16}
    env = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    batches = [lab.batch(), lab.operations_batch()]
    lens = lab.directions[:2]
    result = run_engine(lab.job([*batches, lab.branch_batch()], options=options, env=env, lens=lens))
    assert_branches_equal(lab, result, len(batches))
    assert_lens_equals(result, lab.ref, lens)
    assert_guessed(lab, result)
    for i, layer in enumerate(lab.layers):
        tokens, logprobs = lab.ref.greedy(lab.prompts[0], N_TOKENS, {layer: lab.add(layer)})
        assert result.batches[0][i]["token_ids"] == tokens, f"layer {layer}"
        assert largest_difference(result.batches[0][i]["logprobs"], logprobs) < 1e-3, f"layer {layer}"
    for one, other in zip(lab.result.batches[1], result.batches[1], strict=True):
        assert one["token_ids"] == other["token_ids"]
    assert result.reports[: len(batches)] == lab.result.reports[: len(batches)]
    one, other = lab.result.captures(0), result.captures(0)
    assert one["read/count"].tolist() == other["read/count"].tolist()
    assert (
        np.abs(one["read/projections/0"] - other["read/projections/0"]).max()
        < 1e-3 * np.abs(one["read/projections/0"]).max()
    )
    for name in ("read/mean", "read/norm"):  # every layer, whichever worker has it
        error = np.linalg.norm(one[name] - other[name], axis=-1) / np.linalg.norm(one[name], axis=-1)
        assert error.max() < 1e-3, name
