"""Stock vLLM against transformers: `stock.py MODEL`. If this fails, the machine's vLLM is at fault and not the plugin."""

import argparse

import bare
from asking import Request
from engines import Kind, engines_of
from stage import Context

PROMPTS = ("The museum opens at nine, and the first", "When the river rises", "x" * 200)
N_TOKENS = 12
LARGEST = {"float32": 2e-3, "bfloat16": 0.3, "float16": 0.1}
"""Largest allowed |delta log-probability|; transformers computes in float32."""


def compare(context: Context, found: bare.Lines) -> None:
    """Three greedy replies in each mode, each of an engine of its own; they start side by side."""
    from trait_service.verify.reference import Reference
    from transformers import AutoConfig

    reference = Reference(context.model, AutoConfig.from_pretrained(context.model).num_hidden_layers)
    requests = [Request(list(text.encode()), max_tokens=N_TOKENS) for text in PROMPTS]
    modes = [("float32", True), ("bfloat16", True), ("bfloat16", False)] if context.cuda else [("float32", True)]
    kinds = {
        f"{dtype}, eager {eager}": Kind(
            plugin=False, options={"dtype": dtype, "enforce_eager": eager, **bare.ENGINE_OPTIONS}
        )
        for dtype, eager in modes
    }
    with engines_of(context, kinds) as engines:
        found_by_mode = [(engine.ready, engine.generate(requests)) for engine in engines.values()]
    for (dtype, eager), (ready, answers) in zip(modes, found_by_mode, strict=True):
        gaps, same = [], 0
        for request, answer in zip(requests, answers, strict=True):
            expected = reference.logprobs(request.token_ids, answer.token_ids, [], {})
            same += int((expected.argmax(-1) == expected.new_tensor(answer.token_ids)).sum())
            gaps += [
                abs(logprob - float(row[token]))
                for row, step in zip(expected, answer.logprobs, strict=True)
                for token, logprob in step.items()
            ]
        worst = max(gaps) if all(gap == gap for gap in gaps) else float("inf")
        found.row(
            "stock vLLM against transformers",
            **{"largest |delta logprob|": worst, "same choice": f"{same} of {N_TOKENS * len(PROMPTS)}", **ready},
        )
        found.check(worst <= LARGEST[dtype], f"stock vLLM, {dtype}, eager {eager}: differs by {worst:.2g}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="folder of a model whose tokens are bytes, as make_models.py writes it")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    given = parser.parse_args()
    found = bare.report("stock")
    bare.run(found, lambda: compare(bare.context(given.model, given.device, limit_s=160), found))


if __name__ == "__main__":
    main()
