"""Docstrings, help texts and pages are written in plain English: the rules that a machine can hold.

The first line of a docstring is a noun phrase or an imperative, so it does not begin with "Of", "What" or "Whether".
Some phrases that readers stumbled over are listed with the words to use instead.
"""

import ast
import re
from pathlib import Path

import click
import pytest
import typer

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("client", "service", "extraction", "deploy", "tests/gpu")
PRODUCT = [path for part in PARTS for path in sorted((ROOT / part).rglob("*.py"))]
PAGES = [
    path
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("experiments/*/README.md"),
        *ROOT.glob("d*/README.md"),
    ]
    if path.name != "CHANGELOG.md"
]

DANGLING = re.compile(r"(Of|What|Whether) ")
ENTRY = re.compile(r"^\s{4,}`?\*{0,2}\w+`?: (Of|What) ")
"""A description below `Args:` or `Attributes:` that begins without a subject."""

PHRASES = {
    r"\bgoes before\b": "takes precedence over",
    r"\btold (apart|from)\b": "distinguished",
    r"\btell(s|ing)? (\w+ )?apart\b": "distinguish",
    r"(?<!here )\bis nothing\b": "is a no-op",
    r"(?<!here )\b(is|are) no (?!longer|more\b|such\b|different)[a-z]": "is not a",
    r"\bstands? (already|there|in the way)\b": "exists",
    r"\bthat (is|are) there\b": "that exists",
    r"\bof one's own\b": "your own",
    r"\bnot one of them\b": "none",
}


def docstrings(path: Path) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        # Also the text below an attribute or a constant.
        found += [
            (each.lineno, each.value.value)
            for each in body
            if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant) and isinstance(each.value.value, str)
        ]
    return found


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def dialect(text: str) -> list[str]:
    return [f"{match[0]!r}: write {better!r}" for bad, better in PHRASES.items() for match in re.finditer(bad, text)]


def test_no_docstring_begins_without_a_subject():
    wrong = []
    for path in PRODUCT:
        for line, text in docstrings(path):
            first = text.strip().partition("\n")[0]
            if DANGLING.match(first):
                wrong.append(f"{place(path, line)}: {first}")
            wrong += [f"{place(path, line)}: {each.strip()}" for each in text.split("\n") if ENTRY.match(each)]
    assert wrong == []


def command_lines() -> list[tuple[str, click.Command]]:
    import trait_client.cli.app
    import trait_extraction.cli
    import trait_service.cli

    apps = {
        "trait-client": trait_client.cli.app.app,
        "trait-extract": trait_extraction.cli.app,
        "trait-service": trait_service.cli.app,
    }
    found = []

    def walk(name: str, command: click.Command) -> None:
        found.append((name, command))
        for each, inner in getattr(command, "commands", {}).items():
            walk(f"{name} {each}", inner)

    for name, app in apps.items():
        walk(name, typer.main.get_command(app))
    return found


def test_no_help_text_begins_without_a_subject_or_uses_a_listed_phrase():
    wrong = []
    commands = command_lines()
    for name, command in commands:
        texts = [(name, command.help or "")]
        texts += [(f"{name} {each.opts[0]}", getattr(each, "help", None) or "") for each in command.params]
        for where, text in texts:
            if re.match(r"(Of|What|Whether|That) ", text):
                wrong.append(f"{where}: {text}")
            wrong += [f"{where}: {each}" for each in dialect(text)]
    assert len(commands) > 20
    assert wrong == []


def test_no_source_text_uses_a_listed_phrase():
    """Docstrings, comments and messages of the product."""
    wrong = [
        f"{place(path, number)}: {each}"
        for path in PRODUCT
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1)
        for each in dialect(line)
    ]
    assert wrong == []


def test_no_page_uses_a_listed_phrase():
    wrong = [
        f"{place(path, number)}: {each}"
        for path in PAGES
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1)
        for each in dialect(line)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "text", ["Of one key.", "What a digest is taken of.", "Whether it must not get another token."]
)
def test_the_rule_finds_what_it_is_for(text):
    assert DANGLING.match(text)
    assert dialect("an own limit goes before") == ["'goes before': write 'takes precedence over'"]
