"""Print the replies of `replies.csv` as Markdown: `python experiments/trait_map/page.py qwen2.5-coder-0.5b`.

One prompt of each trait, before and after: `replies.md` beside the table is this command's output.
"""

import argparse
import csv
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODELS = ("smollm2", "qwen2.5-coder-0.5b")
HEADER = ("trait", "setting", "prompt", "unsteered", "steered")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", choices=MODELS)
    print("\n".join(page(folder_of(parser.parse_args().model))))


def folder_of(model: str) -> Path:
    """The folder of a model's tables."""
    return HERE if model == MODELS[0] else HERE / model


def page(folder: Path) -> list[str]:
    """Lines of a Markdown table: for each trait its first reply before and after."""
    with (folder / "replies.csv").open(newline="", encoding="utf-8") as stream:
        rows = {row["trait"]: row for row in reversed(list(csv.DictReader(stream)))}
    lines = [HEADER, ("---",) * len(HEADER)]
    for row in sorted(rows.values(), key=lambda row: row["trait"]):
        dose = f"`{row['method']}`, layer {row['layer']}, coefficient {float(row['coefficient']):g}: {row['verdict']}"
        lines.append((row["trait"], dose, *(cell(row[name]) for name in ("prompt", "baseline", "steered"))))
    return ["| " + " | ".join(line) + " |" for line in lines]


def cell(text: str) -> str:
    """A reply on one line, without what Markdown would read as its own."""
    joined = " ".join(text.split())
    for mark in "\\`*_|<>[]#$~":
        joined = joined.replace(mark, f"\\{mark}")
    return joined


if __name__ == "__main__":
    main()
