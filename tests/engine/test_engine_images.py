"""Images in the prompt: their positions are steered and captured as those of text are, in vLLM as in transformers."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from engine_harness import Job, Req, direction
from PIL import Image
from tiny_models import D_MODEL, N_LAYERS
from tiny_multimodal import IMAGE_TOKENS, make_idefics3
from trait_core.positions import Positions
from trait_service.engine.spec import CaptureSpec, RequestSpec, TermSpec

pytestmark = pytest.mark.engine

LAYER, VALUE, N_TOKENS = 1, 3.0, 3
TEXT = "Look <image> at this"
TOLERANCE = 1e-3
DIRECTION = direction(D_MODEL, seed=7)


class Multimodal:
    """transformers, float32: the model, its processor, and one prompt with one image."""

    def __init__(self, folder: Path, image: Path) -> None:
        from transformers import AutoProcessor, Idefics3ForConditionalGeneration

        self.model = Idefics3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self.blocks = self.model.model.text_model.layers
        processor = AutoProcessor.from_pretrained(folder)
        self.unexpanded = processor.tokenizer.encode(TEXT)
        self.inputs = processor(images=Image.open(image), text=TEXT, return_tensors="pt")
        self.prompt = self.inputs["input_ids"][0].tolist()
        at = [i for i, token in enumerate(self.prompt) if token == self.model.config.image_token_id]
        self.image = at[0], at[-1] + 1

    @torch.no_grad()
    def run(self, generated: list[int], change=None) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of what follows the prompt and each generated token, and the streams of all layers."""
        streams = {}

        def hook(layer, stream):
            if change is not None and layer == LAYER:
                stream = stream + change(torch.arange(stream.shape[1]))[:, None] * torch.from_numpy(DIRECTION.array)
            streams[layer] = stream[0].clone()
            return stream

        handles = [
            block.register_forward_hook(lambda _module, _args, output, layer=layer: hook(layer, output))
            for layer, block in enumerate(self.blocks)
        ]
        try:
            inputs = {**self.inputs, "input_ids": torch.tensor([[*self.prompt, *generated]])}
            inputs.pop("attention_mask")
            logits = self.model(**inputs, use_cache=False).logits[0]
        finally:
            for handle in handles:
                handle.remove()
        return torch.log_softmax(logits[len(self.prompt) - 1 :], -1), torch.stack([streams[i] for i in range(N_LAYERS)])


@pytest.fixture(scope="module")
def ran(smollm2_path, tmp_path_factory, run_engine) -> SimpleNamespace:
    """One engine: an image without steering, steered everywhere, steered at the image only, and captured."""
    folder = make_idefics3(tmp_path_factory.mktemp("idefics3"), smollm2_path)
    image = folder / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(image)
    reference = Multimodal(folder, image)

    def spec(key: str, **fields) -> str:
        return RequestSpec(key=key, **fields).model_dump_json()

    def term(**fields) -> TermSpec:
        return TermSpec(layer=LAYER, direction=DIRECTION.sha256, value=VALUE, **fields)

    start, stop = reference.image
    pools = [Positions.parse(text) for text in (f"all[{start}:{stop}]", "prompt[:]")]
    specs = [
        None,
        spec("everywhere", terms=[term()]),
        spec("image", terms=[term(scope=[start, stop])]),
        spec("captured", capture=CaptureSpec(positions=pools)),
    ]
    batch = [Req(reference.unexpanded, each, N_TOKENS, image=str(image)) for each in specs]
    options = {"max_model_len": 256, "max_num_seqs": 8}
    result = run_engine(Job(str(folder), [batch], [DIRECTION], options=options))
    return SimpleNamespace(reference=reference, result=result, outputs=result.batches[0])


def furthest(output: dict, expected: torch.Tensor) -> float:
    return max(
        abs(value - float(expected[step, int(token)]))
        for step, logprobs in enumerate(output["logprobs"])
        for token, value in logprobs.items()
    )


def test_the_prompt_holds_the_tokens_of_the_image(ran):
    assert len(ran.reference.prompt) > len(ran.reference.unexpanded) + IMAGE_TOKENS - 1
    assert ran.outputs[0]["prompt_token_ids"] == ran.reference.prompt


@pytest.mark.parametrize(("request_", "inside"), [(0, None), (1, "everywhere"), (2, "image")])
def test_steering_at_the_positions_of_an_image_equals_a_hook_in_transformers(ran, request_, inside):
    start, stop = ran.reference.image
    changes = {
        None: None,
        "everywhere": lambda at: VALUE * (at >= 0),
        "image": lambda at: VALUE * ((at >= start) & (at < stop)),
    }
    output = ran.outputs[request_]
    expected, _ = ran.reference.run(output["token_ids"], changes[inside])
    assert furthest(output, expected) < TOLERANCE
    if inside:
        unsteered, _ = ran.reference.run(output["token_ids"])
        assert furthest(output, unsteered) > 50 * TOLERANCE


def test_a_scope_by_position_counts_the_tokens_of_the_image(ran):
    report = ran.result.reports[0]["image"]
    assert (report["steered_prompt"], report["steered_generated"]) == (IMAGE_TOKENS, 0)
    assert ran.result.reports[0]["everywhere"]["steered_prompt"] == len(ran.reference.prompt)


def test_the_stream_at_the_positions_of_an_image_is_captured(ran):
    _, streams = ran.reference.run(ran.outputs[3]["token_ids"])
    pools = (slice(*ran.reference.image), slice(0, len(ran.reference.prompt)))
    for means, at in zip(ran.result.captures(0)["captured/mean"], pools, strict=True):
        expected = streams[:, at].mean(1).numpy()
        assert np.linalg.norm(means - expected, axis=-1).max() < TOLERANCE * np.linalg.norm(expected, axis=-1).min()
