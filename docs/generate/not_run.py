"""Page of the commands that the documentation test does not run, with the reasons."""

from fenced_blocks import excused
from page_parts import cell, document, table

KINDS = {
    "not run": "Cannot be run where the tests run, or is run elsewhere. The real command line reads each of these commands "
    "in the suite all the same, so that no command or option is misspelt.",
    "long": "Run by `make test-docs`, not by `make test`, which only has the command line read them.",
}


def page() -> str:
    """Text of the page."""
    parts = ["Every other `bash`, `python` and `sql` block of README.md and docs/ is run by `make test` (tests/docs)."]
    for kind, meaning in KINDS.items():
        found = [block for block in excused() if block.excuse == kind]
        rows = ((f"[{b.page}](../../{b.page})", f"`{cell(_first_line(b.text))}`", b.reason) for b in found)
        blocks = table(("page", "begins with", "why"), rows)
        parts.append(f"## {kind.capitalize()}: {len(found)}\n\n{meaning}\n\n{blocks}")
    return document("What is not run", parts)


def _first_line(text: str) -> str:
    return text.splitlines()[0].partition(" #")[0].strip()
