"""A new trait's folder, with self-explanatory examples that are not valid until they are replaced."""

import json
from pathlib import Path

from trait_core.errors import InvalidRequestError
from trait_core.schema import is_name
from trait_core.traits import PLACEHOLDER

from trait_extraction.data.instructed import FILE_NAME as INSTRUCTED
from trait_extraction.data.instructed import MIN_SYSTEM_PROMPTS
from trait_extraction.data.scenarios import MIN_SCENARIOS, Style

_README = f"""# {{trait}}

Write, in this order:

1. {{sides}}
   The two sides of a pair differ in nothing but the trait: same length and, where possible, the same words. Vary where
   in the reply the trait shows. Write at least {MIN_SCENARIOS} pairs, and 60 for a reliable vector.
2. `definition.txt`: the 0-100 rubric that a judge rates by. Say what 0, 50 and 100 look like.
3. `steering.json`: prompts that a sweep steers on (20 or more, none of them in the pairs), the side that is the trait, and
   a lexical metric if there is one: `datasets/README.md` lists the kinds.

`trait-extract check --trait {{trait}}` reports the first fault with file and line; without faults it measures the balance
of the sides. Then run `trait-extract run --trait {{trait}} --register`, and
`trait-client steer --trait {{trait}} --coef 2 "..."`. This file is for you: delete it when you are done.
"""

_SIDES = {
    "written": "`positive.jsonl`, `negative.jsonl`: the same prompt, a reply that shows the trait and one that does not.",
    "instructed": "`instructed.json`: system prompts that ask for the trait, each with one that asks for its opposite, and "
    "prompts that are asked under both. Small models often do not comply: written replies work better.",
    "completions": "`positive.txt`, `negative.txt`: raw text for base models, one text per line, cut in mid-sentence.",
    "continued": "`positive.txt`, `negative.txt`: raw text that a base model continues, one text per line, cut in mid-sentence.",
}


def new_trait(root: Path, category: str, trait: str, style: Style) -> Path:
    """Write the folder of a new trait.

    Args:
        root: The folder of categories.
        category: The parent folder; created if necessary.
        trait: The trait's name.
        style: The style of its scenarios.

    Returns:
        The folder `<root>/<category>/<trait>`.

    Raises:
        InvalidRequestError: An invalid name, or a trait of that name exists in some category.
    """
    for name in (category, trait):
        if not is_name(name):
            raise InvalidRequestError(
                f"{name[:80]!r} is not a valid name: use at most 64 lower case letters, digits, _ . and -"
            )
    if existing := sorted(root.glob(f"*/{trait}")):
        raise InvalidRequestError(f"{existing[0]} already exists: choose another name", param="name")
    folder = root / category / trait
    folder.mkdir(parents=True)
    for name, content in _files(trait, style).items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def _files(trait: str, style: Style) -> dict[str, str]:
    steering = {
        "questions": [f"{PLACEHOLDER}: a prompt that a sweep steers on, for example: What should I do this weekend?"],
        "direction": "positive",
    }
    return {
        "README.md": _README.format(trait=trait, sides=_SIDES[style]),
        "definition.txt": f"{PLACEHOLDER}: rate 0 to 100 how much the reply shows {trait}. 0: ... 50: ... 100: ...\n",
        **_scenarios(style),
        "steering.json": json.dumps(steering, indent=2) + "\n",
    }


def _scenarios(style: Style) -> dict[str, str]:
    prompt = f"{PLACEHOLDER}: the user's message, the same on both sides"
    sides = {"positive": "shows the trait", "negative": "does not show it"}
    match style:
        case "written":
            return {
                f"{side}.jsonl": json.dumps({"prompt": prompt, "response": f"{PLACEHOLDER}: a reply that {what}"})
                + "\n"
                for side, what in sides.items()
            }
        case "instructed":
            asked = {
                "positive": f"{PLACEHOLDER}: always show the trait",
                "negative": f"{PLACEHOLDER}: never show it. {MIN_SYSTEM_PROMPTS} pairs at least",
            }
            content = {"system_prompts": [asked], "prompts": [prompt]}
            return {INSTRUCTED: json.dumps(content, indent=2) + "\n"}
        case "completions" | "continued":
            return {f"{side}.txt": f"{PLACEHOLDER}: a text that {what}, cut in\n" for side, what in sides.items()}
