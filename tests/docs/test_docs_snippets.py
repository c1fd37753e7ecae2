"""Blocks and links of README.md and docs/: what each is, and that the real command lines read what is not run."""

import os
import re
import tomllib

import pytest
from docs_harness import PageReader, parse
from fenced_blocks import EXCUSES, ROOT, RUN, SHOWN, Block, blocks, excused, pages


@pytest.mark.parametrize("page", pages())
def test_every_block_says_what_it_is(page):
    for block in blocks(page):
        assert block.language in (*RUN, *SHOWN), f"{block.where}: ```{block.language}"
        if block.language == "toml":
            tomllib.loads(block.text)
        if block.excuse is not None:
            assert block.excuse in EXCUSES, f"{block.where}: {block.excuse}"
            assert block.reason or block.excuse == "serves", f"{block.where}: say why"
            assert block.excuse != "needs" or block.reason in {"harnesses", "pandas"}, (
                f"{block.where}: there is no other environment"
            )


@pytest.mark.parametrize("page", pages())
def test_no_page_is_without_something_to_run(page):
    assert [block for block in blocks(page) if block.language in RUN]


def test_the_index_names_every_page():
    index = (ROOT / "docs" / "README.md").read_text()
    named = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {name for name in named if f"({name})" not in index} == set()


@pytest.mark.parametrize("page", pages())
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text()):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), f"{page}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, target


@pytest.mark.parametrize("block", excused(), ids=lambda block: block.where)
def test_what_is_not_run_is_read_by_the_real_command_line(block):
    import trait_client.cli.app
    import trait_extraction.cli
    import trait_service.cli

    apps = {
        "trait-client": trait_client.cli.app.app,
        "trait-extract": trait_extraction.cli.app,
        "trait-service": trait_service.cli.app,
    }
    targets = (ROOT / "Makefile").read_text()
    for words in block.commands():
        if words[0] in apps:
            parse(apps[words[0]], words)
        elif words[0] == "make":
            assert f"\n{words[1]}:" in targets, f"{block.where}: no target {words[1]}"


def test_an_option_that_is_not_there_is_found():
    import trait_client.cli.app

    block = Block("page.md", 1, "bash", "trait-client sweep x.toml \\\n    --no-such-option 3 | cat  # a comment\n")
    assert block.commands() == [["trait-client", "sweep", "x.toml", "--no-such-option", "3"], ["cat"]]
    with pytest.raises(Exception, match="No such option"):
        parse(trait_client.cli.app.app, block.commands()[0])


def test_a_command_that_fails_fails_its_page(tmp_path):
    reader = PageReader(tmp_path, "http://127.0.0.1:1", dict(os.environ))
    reader.run(Block("page.md", 1, "bash", "export THERE=yes\n"))
    reader.run(Block("page.md", 2, "bash", 'test "$THERE" = yes\n'))
    with pytest.raises(AssertionError, match="exit code"):
        reader.run(Block("page.md", 3, "bash", "false | true\n"))
