"""How verify judges, what it does with odd tokenizers, and the document that it publishes."""

from types import SimpleNamespace

import pytest
from trait_service.verify.bench import LEAST_DISTINCT, ROOM_TO_REPLY, prompt_of
from trait_service.verify.findings import Finding
from trait_service.verify.judging import EXACT, ROUNDED, Scale, distance, precision_of
from trait_service.verify.probe import Answer
from trait_service.verify.report import Measured, Report, Subject, without_folders

# Noise and spread as measured on SmolLM2 and on a Granite whose logits are scaled by 1/8, in bfloat16 and float32.
SCALES = [
    Scale(noise=0.048, spread=4.5, share=ROUNDED.share),
    Scale(noise=0.0007, spread=0.078, share=ROUNDED.share),
    Scale(noise=7e-6, spread=4.5, share=EXACT.share),
    Scale(noise=6e-8, spread=0.075, share=EXACT.share),
]
EFFECTS = [0.0, 1e-7, 1e-4, 0.001, 0.01, 0.06, 0.4, 2.5, 10.0]


class TestScale:
    @pytest.mark.parametrize("scale", SCALES)
    @pytest.mark.parametrize("effect", EFFECTS)
    def test_where_a_comparison_decides_a_dead_hook_is_wrong(self, scale, effect):
        """Unsteered, the engine is away from the steered reference by the effect, give or take the noise."""
        dead = effect - scale.noise
        assert not scale.decides(effect) or dead > scale.allowed(effect)

    @pytest.mark.parametrize("scale", SCALES)
    def test_noise_alone_decides_nothing(self, scale):
        assert not any(scale.decides(times * scale.noise) for times in (0, 1, 2, 4, 8))

    @pytest.mark.parametrize("scale", SCALES)
    def test_the_noise_of_a_sound_engine_is_allowed(self, scale):
        assert all(2 * scale.noise < scale.allowed(effect) for effect in EFFECTS)

    @pytest.mark.parametrize("effect", EFFECTS)
    def test_a_model_with_all_logits_divided_by_eight_is_judged_alike(self, effect):
        for scale in SCALES:
            eighth = Scale(noise=scale.noise / 8, spread=scale.spread / 8, share=scale.share)
            assert eighth.decides(effect / 8) == scale.decides(effect)
            assert eighth.allowed(effect / 8) == pytest.approx(scale.allowed(effect) / 8)

    def test_only_float32_is_exact(self):
        assert precision_of("float32", quantised=False) is EXACT
        assert precision_of("float32", quantised=True) is precision_of("bfloat16", quantised=False) is ROUNDED


class TestDistance:
    def test_a_token_that_is_not_returned_is_less_likely_than_all_that_are(self):
        one = Answer([1], [{1: -1.0, 2: -3.0}], 0)
        other = Answer([1], [{1: -1.5, 3: -2.5}], 0)
        # Token 1: 0.5 apart. Token 2: below -2.5 in the other, so at least 0. Token 3: -2.5 against at most -3.
        assert distance(one, other) == distance(other, one) == pytest.approx((0.5 + 0 + 0.5) / 3)

    def test_what_follows_different_tokens_is_not_compared(self):
        one = Answer([1, 5], [{1: -1.0, 2: -1.0}, {5: 0.0}], 0)
        other = Answer([2, 5], [{1: -1.0, 2: -1.0}, {5: -9.0}], 0)
        assert distance(one, other) == 0


class TestPrompts:
    def test_a_text_is_cut_to_what_the_model_takes(self):
        engine = SimpleNamespace(encode=lambda text: list(text.encode()), n_vocabulary=256, max_model_len=32)
        assert (
            prompt_of(engine, "The museum opens at nine", 0) == list(b"The museum opens at nine")[: 32 - ROOM_TO_REPLY]
        )

    @pytest.mark.parametrize("tokens", [[], [0] * 20, None])
    def test_a_tokenizer_without_the_words_gets_random_tokens_of_its_vocabulary(self, tokens):
        """The third one raises: `list(None)`."""
        engine = SimpleNamespace(encode=lambda _: list(tokens), n_vocabulary=300, max_model_len=64)
        prompts = [prompt_of(engine, "The museum opens at nine, and the first visitors", seed) for seed in (0, 1)]
        assert prompts[0] != prompts[1]
        assert all(len(set(prompt)) >= LEAST_DISTINCT and max(prompt) < 300 for prompt in prompts)


class TestDocument:
    """`--json` can be published: whoever renames a field raises `schema_version`."""

    def test_its_keys(self):
        assert {model.__name__: list(model.model_fields) for model in (Report, Subject, Measured, Finding)} == {
            "Report": ["schema_version", "passed", "quick", "subject", "reference", "measured", "checks"],
            "Subject": [
                "model",
                "architecture",
                "dtype",
                "weights",
                "on",
                "device",
                "system",
                "mode",
                "runner",
                "scheduling",
                "layers",
                "width",
                "versions",
            ],
            "Measured": ["noise", "spread", "share", "dose"],
            "Finding": ["status", "compared", "detail", "difference", "allowed", "effect"],
        }
        assert Report.model_fields["schema_version"].default == 1

    @pytest.mark.parametrize(
        ("said", "published"),
        [
            ("no file /home/ann/models/llama/config.json", "no file config.json"),
            ("'~/models/llama' and ../llama/x.py:12", "'llama' and x.py:12"),
            ("Qwen/Qwen3-0.6B, 4 and/or 5, 0.5 nats/token", "Qwen/Qwen3-0.6B, 4 and/or 5, 0.5 nats/token"),
            ("see https://huggingface.co/docs/x", "see https://huggingface.co/docs/x"),
        ],
    )
    def test_it_holds_no_folders_of_the_machine(self, said, published):
        assert without_folders(Finding(status="failed", detail=said)).detail == published
