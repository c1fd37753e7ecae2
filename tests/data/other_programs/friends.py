"""Scores the task `friends` with lm-eval on each model that is named: `friends.py URL TOKENIZER OUT MODEL...`."""

import json
import sys
from pathlib import Path

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager


def main(url: str, tokenizer: str, out: str, *models: str) -> None:
    manager = TaskManager(include_path=str(Path(__file__).parent), include_defaults=False)
    found = {}
    for model in models:
        arguments = {"model": model, "base_url": f"{url}/v1/completions", "tokenizer": tokenizer, "num_concurrent": 6}
        answer = simple_evaluate(
            model="local-completions", model_args=arguments, tasks=["friends"], task_manager=manager, bootstrap_iters=0
        )
        found[model] = {"acc": answer["results"]["friends"]["acc,none"], "samples": answer["samples"]["friends"]}
    Path(out).write_text(json.dumps(found, default=str))


if __name__ == "__main__":
    main(*sys.argv[1:])
