"""The fenced blocks of README.md and docs/, each with the comment that excuses it from being run."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

RUN = ("bash", "python", "sql")
SHOWN = ("text", "json", "toml", "mermaid")
EXCUSES = ("not run", "long", "serves", "needs")

_FENCE = re.compile(r"^( *)```(.*)$")
_EXCUSE = re.compile(r"^ *<!-- ([a-z ]+?)( with the harnesses)?(?:: (.*))? -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        page: Relative to the checkout.
        line: Of its first line of text, from 1.
        language: Behind the fence.
        text: Without the fences.
        excuse: `not run`, `long`, `serves` or `needs` of the comment before it, if there is one.
        reason: What the comment says of it.
        foreign: It runs with the programs of `make harnesses`: `needs: harnesses`, or `long with the harnesses: why`.
    """

    page: str
    line: int
    language: str
    text: str
    excuse: str | None = None
    reason: str = ""
    foreign: bool = False

    @property
    def where(self) -> str:
        """Page and line."""
        return f"{self.page}:{self.line}"

    def commands(self) -> list[list[str]]:
        """Each simple command of a shell block, split into words."""
        found: list[list[str]] = []
        for line in self.text.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            found.append([])
            for word in lexer:
                if set(word) <= set(";|&()"):
                    found.append([])
                else:
                    found[-1].append(word)
        return [words for words in found if words]


def pages() -> list[str]:
    """README.md and docs/, without what is generated."""
    return ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md")))]


def blocks(page: str) -> list[Block]:
    """The blocks of a page, in order."""
    found, opened, excuse = [], None, ()
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line)
        if opened is not None:
            if fence and not fence.group(2):
                first, language, indent, text, why = opened
                lines = [one.removeprefix(indent) for one in text]
                found.append(Block(page, first, language, "\n".join(lines) + "\n", *why))
                opened, excuse = None, ()
            else:
                opened[3].append(line)
        elif fence:
            opened = (number + 1, fence.group(2), fence.group(1), [], excuse)
        else:
            excuse = _excuse(line)
    assert opened is None, f"{page}: a fence is not closed"
    return found


def _excuse(line: str) -> tuple[str, str, bool] | tuple[()]:
    """`(excuse, reason, foreign)` of a comment; empty for any other line."""
    comment = _EXCUSE.match(line)
    if comment is None:
        return ()
    excuse, foreign, reason = comment.groups()
    return excuse, reason or "", excuse == "needs" or foreign is not None


def excused() -> list[Block]:
    """All blocks that the suite does not run."""
    return [block for page in pages() for block in blocks(page) if block.excuse in ("not run", "long")]
