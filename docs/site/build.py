"""Write the documentation as a site into build/site: `make docs-site`. It is read without a network.

The pages keep their places in the checkout, so that their links hold: README.md, docs/, and every page and picture that they link.
The menu is docs/README.md's. mkdocs-material builds it in an environment of its own (`deploy/own_environment.py site`), with `--strict`:
a link that leads nowhere is an error.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
PAGES = BUILD / "site-pages"
MKDOCS = ROOT / ".cache" / "site" / "bin" / "mkdocs"
CONFIGURATION = Path(__file__).with_name("mkdocs.yml")
STYLE = Path(__file__).with_name("extra.css")
STUDIES = "experiments/*/README.md"
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_PICTURE = re.compile(r'\bsrc(?:set)?="([^"]+)"')
_HEADING = re.compile(r"^## (.+)$")


def main() -> None:
    """Gather the pages, write the menu, run mkdocs."""
    if not MKDOCS.is_file():
        sys.exit("mkdocs is not installed in .cache/site: it needs a network once")
    shutil.rmtree(PAGES, ignore_errors=True)
    for path in gathered():
        target = PAGES / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target)
    shutil.copy(STYLE, PAGES)
    settings = BUILD / "site.yml"
    settings.write_text(f"{CONFIGURATION.read_text(encoding='utf-8')}{menu_lines()}", encoding="utf-8")
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run([MKDOCS, "build", "--strict", "--quiet", "--config-file", settings], env=quiet, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    n_pages = len(list((BUILD / "site").rglob("*.html")))
    print(f"{n_pages} pages; to read them, with the search: python -m http.server -d build/site")


def gathered() -> list[Path]:
    """README.md, docs/ and all files that they link, pages of which are followed too; relative to the checkout."""
    found: set[Path] = set()
    waiting = [Path("README.md"), *(path.relative_to(ROOT) for path in ROOT.glob(STUDIES))]
    waiting += [path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md")]
    while waiting:
        page = waiting.pop()
        if page in found:
            continue
        found.add(page)
        if page.suffix == ".md":
            waiting += linked(page)
    return sorted(found)


def linked(page: Path) -> list[Path]:
    """The files of the checkout that a page links."""
    found = []
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in [*_LINK.findall(text), *_PICTURE.findall(text)]:
        if not re.match(r"[a-z]+:", target):
            path = (ROOT / page).parent.joinpath(target).resolve()
            if path.is_file() and path.is_relative_to(ROOT):
                found.append(path.relative_to(ROOT))
    return found


def menu() -> dict[str, list[str]]:
    """Heading of docs/README.md -> its pages, in order, each page once; then the studies, then whatever else is gathered."""
    index = Path("docs/README.md")
    found: dict[str, list[str]] = {}
    named = {"README.md", str(index)}
    heading = ""
    for line in (ROOT / index).read_text(encoding="utf-8").splitlines():
        if title := _HEADING.match(line):
            heading = title.group(1)
        for target in _LINK.findall(line) if heading else ():
            path = (ROOT / "docs" / target).resolve()
            page = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else ""
            if page.endswith(".md") and page not in named:
                found.setdefault(heading, []).append(page)
                named.add(page)
    found["Studies"] = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(STUDIES))
    named |= set(found["Studies"])
    found["More"] = [str(page) for page in gathered() if page.suffix == ".md" and str(page) not in named]
    return found


def menu_lines() -> str:
    """The menu as mkdocs reads it."""
    lines = ["nav:", "  - Start:", "      - README.md", "      - docs/README.md"]
    for heading, pages in menu().items():
        lines += [f"  - {heading}:", *(f"      - {page}" for page in pages)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
