"""A task for Inspect: the same questions in a chat, answered with a letter that the model writes."""

import json
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, Scorer, Target, accuracy, scorer
from inspect_ai.solver import TaskState, generate

ASKED = "Answer with one letter: A, B, C or D."


@scorer(metrics=[accuracy()])
def letter() -> Scorer:
    """The first of the four letters that stands alone in the reply is the right one."""

    async def score(state: TaskState, target: Target) -> Score:
        words = "".join(each if each.isalnum() else " " for each in state.output.completion).split()
        written = next((word for word in words if word in {"A", "B", "C", "D"}), "")
        return Score(value=float(written == target.text), answer=written)

    return score


@task
def letters() -> Task:
    """One sample for each question of `choices.jsonl`."""
    samples = []
    for line in Path("choices.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        options = [f"{name}. {option}" for name, option in zip("ABCD", entry["options"], strict=True)]
        text = "\n".join([entry["question"], *options, ASKED])
        samples.append(Sample(id=entry["id"], input=text, target=entry["answer"]))
    return Task(dataset=samples, solver=generate(), scorer=letter())
