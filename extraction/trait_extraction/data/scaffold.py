"""A new trait's folder, with examples that explain themselves and are not valid until they are replaced."""

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
   Of a pair everything is alike but the trait. Same length, same words where it can be, the trait now in
   the first word and now in the last. {MIN_SCENARIOS} pairs at least, 60 for a vector to rely on.
2. `definition.txt`: the 0-100 rubric that a judge rates by. Say what 0, 50 and 100 look like.
3. `steering.json`: prompts that a sweep steers on (20 or more, none of them in the pairs), which side is the trait, and,
   if there is one, a lexical metric: `datasets/README.md` lists the kinds.

`trait-extract check --trait {{trait}}` names the first thing that is missing, with file and line, and, once all is there,
measures how balanced the sides are. Then `trait-extract run --trait {{trait}} --register`, and
`trait-client steer --trait {{trait}} --coef 2 "..."`. This file is for you: delete it when you are done.
"""

_SIDES = {
    "written": "`positive.jsonl`, `negative.jsonl`: the same prompt, a reply that shows the trait and one that does not.",
    "instructed": "`instructed.json`: system prompts that ask for the trait, each with one that asks for its opposite, and "
    "prompts that are asked under both. Small models often do not obey: written replies are the better choice.",
    "completions": "`positive.txt`, `negative.txt`: raw text for base models, a text a line, cut in mid-sentence.",
}


def new_trait(root: Path, category: str, trait: str, style: Style) -> Path:
    """Write the folder of a trait.

    Args:
        root: The folder of categories.
        category: The folder that it goes into; made if need be.
        trait: Its name.
        style: How its scenarios are written.

    Returns:
        The folder `<root>/<category>/<trait>`.

    Raises:
        InvalidRequestError: A name that is none, or a trait of that name in any category.
    """
    for name in (category, trait):
        if not is_name(name):
            raise InvalidRequestError(f"{name[:80]!r} is no name: lower case letters, digits, _ . and -, 64 at most")
    if standing := sorted(root.glob(f"*/{trait}")):
        raise InvalidRequestError(f"{standing[0]} stands already: choose another name", param="name")
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
        case "completions":
            return {f"{side}.txt": f"{PLACEHOLDER}: a text that {what}, cut in\n" for side, what in sides.items()}
