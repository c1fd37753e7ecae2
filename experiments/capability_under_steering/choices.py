"""Scores the task `choices` with lm-evaluation-harness on each model: `choices.py URL TOKENIZER OUT LIMIT MODEL...`.

It runs in the harness's own environment, in a folder that holds `choices.yaml` and the questions, `choices.jsonl`. `OUT` gets
model -> id of each question -> 1 or 0, right or wrong. A `LIMIT` of 0 takes all questions.
"""

import json
import sys
from pathlib import Path

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager


def main(url: str, tokenizer: str, out: str, limit: str, *models: str) -> None:
    """Score every model and write the file."""
    manager = TaskManager(include_path=str(Path.cwd()), include_defaults=False)
    found = {}
    for model in models:
        arguments = {"model": model, "base_url": f"{url}/v1/completions", "tokenizer": tokenizer, "num_concurrent": 32}
        answer = simple_evaluate(
            model="local-completions",
            model_args=arguments,
            tasks=["choices"],
            task_manager=manager,
            limit=int(limit) or None,
            bootstrap_iters=0,
        )
        found[model] = {sample["doc"]["id"]: sample["acc"] for sample in answer["samples"]["choices"]}
        print(f"{model}: {sum(found[model].values()):.0f} of {len(found[model])}", flush=True)
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
