"""The models that are known to be steered right, and those that are refused, from the tables that the service reads."""

from page_parts import document, table

EVIDENCE = {
    "parity": "parity test",
    "images": "parity test with an image",
    "weights": "`verify` on real weights",
    "read": "read only",
}


def page() -> str:
    """Text of the page."""
    from trait_service.engine import layer_rules
    from trait_service.models.architectures import ARCHITECTURES

    proven = {layer for each in ARCHITECTURES.values() for layer in each.layers}
    architectures = [
        (
            f"`{name}`",
            ", ".join(f"`{_short(layer)}`" for layer in each.layers),
            " or ".join(dict.fromkeys(_rule(layer) for layer in each.layers)),
            ", ".join(f"`{at}`" for at in each.hook_points) if "parity" in each.evidence else "not tested",
            ", ".join(EVIDENCE[kind] for kind in each.evidence),
            each.quirk,
        )
        for name, each in ARCHITECTURES.items()
    ]
    read = [(f"`{name}`", rule) for name, rule in sorted(layer_rules.RULES.items()) if name not in proven]
    refused = [(f"`{name}`", reason) for name, reason in sorted(layer_rules.REFUSED.items())]
    n_parity = sum("parity" in each.evidence for each in ARCHITECTURES.values())
    parts = [
        (
            "Whether a model can be steered depends on what its decoder layers return. Three rules say where the residual stream "
            "is in that: *pair* (`(hidden_states, residual)`, and the stream is their sum), *first* (a tuple that begins with the "
            "stream) and *single* (one tensor). A model whose layers are in none of these tables is refused at start-up; the error "
            "names the class, its file, and the option that adds a rule. How to check a model on your machine: "
            "[howto-models.md](../howto-models.md#does-it-work-here)."
        ),
        (
            "A layer's output is `hidden_states[layer + 1]` of transformers. At the last layer it is the stream before the final "
            "norm, which transformers does not show in `hidden_states`."
        ),
        "## Architectures",
        (
            f"*Parity test* ({n_parity} architectures): vLLM runs a tiny random model of it on a CPU, in float32. `add` and `ablate` "
            "at the first, a middle and the last layer give what transformers gives with a hook on the same block. A capture of all "
            "layers does too (`tests/engine/test_engine_architectures_*.py`), and so do `add`, capture and monitor at the further hook points "
            "(`--hook-points`). *With an image*: the same with an image in the prompt "
            "(`tests/engine/test_engine_images.py`). *`verify` on real weights*: "
            "`trait-service verify` passed. *Read only*: the source was read, and the last column says why there is no parity test. "
            "No GPU has run these tests yet."
        ),
        table(
            ("architecture", "class of its layers", "rule", "hook points", "how it is known", "particular"),
            architectures,
        ),
        "## More classes of layers with a rule",
        "Read in the sources of vLLM 0.32 and 0.33; no parity test runs them.",
        table(("class", "rule"), read),
        "## Refused",
        table(("class", "why"), refused),
    ]
    return document("Models", parts)


def _rule(layer: str) -> str:
    from trait_service.engine import layer_rules

    return layer_rules.RULES.get(layer, "of transformers")


def _short(layer: str) -> str:
    return layer.removeprefix("transformers.models.")
