"""Text files that a user brings: every reader takes the same files, and says the same about those that it cannot read."""

import ast
import json
from collections import Counter
from pathlib import Path

import pytest
from trait_client.cli.judge_options import JudgeOptions
from trait_client.judge.labels import read_labels
from trait_client.prompt_sets import read_prompts
from trait_client.sweeps.experiment import Experiment
from trait_core.errors import DatasetError, TraitError
from trait_core.text_files import one_line, read_lines, read_text
from trait_core.traits import read_definition, read_steering
from trait_extraction.data.datasets import load_trait
from trait_service.access.keys import KeyFile

ROOT = Path(__file__).resolve().parents[2]
KEPT = "Café\u2028of\u0085the\x0cnight"
"""Characters at which `str.splitlines` cuts, and nobody who wrote them meant to."""

QUOTED = json.dumps(KEPT, ensure_ascii=False).replace("\x0c", "\\f")
PAIRS = "".join(f'{{"prompt": "Q {i}?", "response": "SIDE {i}. {QUOTED[1:-1]}"}}\n' for i in range(8))
STEERING = f'{{\n"questions": [{QUOTED}],\n"direction": "positive"\n}}\n'
SYSTEM = {"system_prompts": [{"positive": f"Yes {i}. {KEPT}", "negative": f"No {i}."} for i in range(5)]}
INSTRUCTED = json.dumps(SYSTEM | {"prompts": [f"P {i}?" for i in range(8)]}, indent=1, ensure_ascii=False)
JUDGE = f'[judge]\nurl = "http://127.0.0.1:9/v1"\nmodel = "a # {KEPT[:4]}"\n'
KEYS = json.dumps({"keys": [{"name": "a", "sha256": "0" * 64, "scopes": ["steer"]}]}, indent=1)
EXPERIMENT = 'name = "x"\ntraits = ["warmth"]\ncoefficients = [1.0]\nsystem = """one\ntwo\u2028"""\n'


def trait(folder):
    dataset = load_trait(folder)
    return dataset.digest, dataset.positive, dataset.definition, dataset.steering


def sides(suffix, text):
    return {f"{side}{suffix}": text.replace("SIDE", side) for side in ("positive", "negative")}


OTHERS = {"definition.txt": f"0 is cold,\n100 is warm. {KEPT}\n", "steering.json": STEERING}
KINDS = {
    "prompts.jsonl": (
        {"p.jsonl": f'{{"prompt": {QUOTED}}}\n\n{{"text": "a"}}\n'},
        lambda at: read_prompts(at / "p.jsonl"),
    ),
    "prompts.txt": ({"p.txt": f"{KEPT}\nsecond\n"}, lambda at: read_prompts(at / "p.txt")),
    "labels": (
        {"l.jsonl": f'{{"trait": "*", "prompt": {QUOTED}, "reply": "r", "label": 100}}\n'},
        lambda at: read_labels(at / "l.jsonl"),
    ),
    "experiment": ({"e.toml": EXPERIMENT}, lambda at: Experiment.load(at / "e.toml")),
    "judge": ({"j.toml": JUDGE}, lambda at: JudgeOptions(at / "j.toml").config(None)),
    "keys": ({"k.json": KEYS}, lambda at: KeyFile(at / "k.json").read()),
    "rubric": (OTHERS, read_definition),
    "evaluation": (OTHERS, read_steering),
    "written": (sides(".jsonl", PAIRS) | OTHERS, trait),
    "completions": (sides(".txt", "".join(f"SIDE {i} {KEPT}\n" for i in range(8))) | OTHERS, trait),
    "instructed": ({"instructed.json": INSTRUCTED} | OTHERS, trait),
}
"""Kind of file -> its files, and its reader."""


class Kind:
    """The files of one kind in a folder, of which `first` is the one that is damaged."""

    def __init__(self, folder, name):
        self.folder = folder
        self.texts, self._read = KINDS[name]
        self.first = folder / {"evaluation": "steering.json"}.get(name, next(iter(self.texts)))
        folder.mkdir(parents=True)
        for file, text in self.texts.items():
            (folder / file).write_bytes(text.encode())

    def read(self):
        found = self._read(self.folder)
        return found.model_dump() if isinstance(found, Experiment) else found

    def fault(self):
        with pytest.raises(TraitError) as caught:
            self.read()
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture(params=KINDS)
def kind(request, tmp_path):
    return Kind(tmp_path / "tone" / "warmth", request.param)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.replace(b"\n", b"\r"),
        lambda data: data.removesuffix(b"\n"),
    ],
    ids=["byte order mark", "CRLF", "CR", "no line end at the end"],
)
def test_every_reader_takes_what_editors_write_and_reads_the_same(kind, change):
    plain = kind.read()
    for name in kind.texts:
        (kind.folder / name).write_bytes(change((kind.folder / name).read_bytes()))
    assert kind.read() == plain


@pytest.mark.parametrize("name", sorted(KINDS.keys() - {"experiment", "judge", "keys"}))
def test_the_characters_that_splitlines_cuts_at_stay_in_the_text(tmp_path, name):
    assert repr(KEPT)[1:-1] in repr(Kind(tmp_path / "tone" / "warmth", name).read())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data.decode().encode("utf-16"), ": is UTF-16: save it as UTF-8, or iconv -f UTF-16 -t UTF-8 "),
        (lambda data: data.decode().encode("utf-16-le"), ": is UTF-16LE: "),
        (lambda data: data.decode().encode("utf-16-be"), ": is UTF-16BE: "),
        (lambda data: data.decode().encode("utf-32"), ": is UTF-32: "),
        (
            lambda data: b"\xe9" + data,
            ":1: not UTF-8 (byte 0xe9): save it as UTF-8; if that byte is 'é', the file is Latin-1",
        ),
        (lambda data: b"\0" + data, ":1: holds a NUL byte"),
        (lambda data: b"PK\x03\x04" + data, ": is a zip archive, or an Excel or Word file"),
        (lambda _: b"", ": is empty"),
        (lambda _: b"\xef\xbb\xbf \r\n", ": is empty"),
    ],
    ids=["UTF-16", "UTF-16LE", "UTF-16BE", "UTF-32", "Latin-1", "NUL", "zip", "empty", "blank"],
)
def test_a_file_that_is_not_text_is_named_in_one_sentence(kind, change, reason):
    kind.first.write_bytes(change(kind.first.read_bytes()))
    assert f"{kind.first}{reason}" in kind.fault()


@pytest.mark.parametrize(
    "name", ["prompts.jsonl", "prompts.txt", "labels", "experiment", "judge", "keys", "rubric", "evaluation"]
)
def test_a_missing_file_and_a_folder_in_its_place_are_named_in_one_sentence(tmp_path, name):
    kind = Kind(tmp_path / "here", name)
    kind.first.unlink()
    assert f"{kind.first}: is missing" in kind.fault()
    kind.first.mkdir()
    assert f"{kind.first}: is a folder: give a file" in kind.fault()


def test_a_missing_folder_is_named_too(tmp_path):
    with pytest.raises(DatasetError, match=r"p\.txt: is missing, since there is no folder .*nowhere: write prompts"):
        read_text(tmp_path / "nowhere" / "p.txt", "write prompts")


def test_a_file_that_may_not_be_read_is_named_in_one_sentence(tmp_path, monkeypatch):
    """Root may read everything, so the refusal is the system call's own, raised by hand."""

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DatasetError, match=r"p\.txt: no permission: change its rights, or choose another place$"):
        read_text(tmp_path / "p.txt")


def test_the_line_of_a_fault_is_counted_in_every_kind_of_line_end(tmp_path):
    for end in (b"\n", b"\r\n", b"\r"):
        (tmp_path / "p.txt").write_bytes(end.join([b"one", b"two", b"caf\xe9"]))
        with pytest.raises(DatasetError, match=r"p\.txt:3: not UTF-8"):
            read_lines(tmp_path / "p.txt")


def test_a_message_of_another_library_loses_its_terminal_codes_and_further_lines():
    assert one_line("\x1b[1mWeights only\x1b[0m load\tfailed\x07.\nMore") == "Weights only load failed ."


def test_deeply_nested_json_and_numbers_without_end_are_faults_of_the_file(tmp_path):
    for text in ("[" * 100_000, "[" + "1" * 10_000 + "]"):
        (tmp_path / "p.jsonl").write_text(text)
        with pytest.raises(DatasetError, match=r"p\.jsonl:1: not JSON that can be read"):
            read_prompts(tmp_path / "p.jsonl")


@pytest.mark.parametrize(
    ("layout", "command"), [([{"prompt": "a"}], "jq -c '.[]' OLD > NEW"), ({"prompt": "a"}, "jq -c . ")]
)
def test_json_that_was_written_for_reading_is_told_how_to_become_lines(tmp_path, layout, command):
    (tmp_path / "p.jsonl").write_text(json.dumps(layout, indent=2))
    with pytest.raises(DatasetError, match="each line is a JSON object of its own") as caught:
        read_prompts(tmp_path / "p.jsonl")
    assert str(caught.value).startswith(f"{tmp_path / 'p.jsonl'}:1: not JSON: ")
    assert command in str(caught.value)


# ---- nothing else reads a user's text

ALLOWED = {
    "client/trait_core/text_files.py: read_bytes": "the reader itself",
    "client/trait_core/vectors/file.py: read_bytes": "a vector file",
    "client/trait_client/cli/vectors.py: read_bytes": "a vector file",
    "extraction/trait_extraction/cli/extract.py: read_bytes": "a vector file",
    "extraction/trait_extraction/cli/vector_folders.py: read_bytes": "a vector file",
    "extraction/trait_extraction/interchange/gguf_export.py: read_bytes": "the GGUF file that was just written",
    "extraction/trait_extraction/interchange/locations.py: read_bytes": "the JSON beside another tool's vectors, of limited size",
    "extraction/trait_extraction/reading/stage_store.py: read_bytes": "our own cache, of which broken lines are skipped",
    "client/trait_client/prompt_sets/reader.py: read_bytes": "our own shards",
    "client/trait_client/prompt_sets/shards.py: read_bytes": "our own shards",
    "client/trait_client/prompt_sets/folder.py: read_bytes": "our own shards",
    "client/trait_client/prompt_sets/manifest.py: read_bytes": "our own manifest",
    "service/trait_service/registry/manifest.py: read_bytes": "our own manifest",
    "service/trait_service/registry/content_store.py: read_bytes": "vector files",
    "client/trait_client/http/local_service.py: open": "the log of a service that this program starts",
    "client/trait_client/http/local_service.py: read_text": "the log of a service that this program starts",
    "client/trait_client/results/layout.py: read_text": "the package's own SQL",
    "client/trait_client/judge/rubric.py: read_text": "the package's own rubric of coherence",
    "client/trait_client/dashboard/single_file.py: read_text": "the package's own page",
    "service/trait_service/environment.py: read_text": "a model's configuration, which vLLM reads too",
    "service/trait_service/models/quantize.py: read_text": "a model's configuration, which vLLM reads too",
    "service/trait_service/models/weights.py: read_text": "our own note beside a copied model",
    "service/trait_service/models/bundled.py: splitlines": "the output of a program that this one starts",
    "service/trait_service/verify/reference.py: open": "/proc/meminfo",
    "extraction/trait_extraction/interchange/sandbox.py: splitlines": "the output of a program that this one starts",
}
"""File and call -> why it is not the text of a user."""


def other_readers(path):
    """Calls that read a file's text or cut a text into lines; `open` counts unless its mode is binary."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        arguments = [*node.args, *(each.value for each in node.keywords)]
        modes = [each.value for each in arguments if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        text_mode = (
            name == "open" and (not owner or modes or "path" in owner) and not any("b" in mode for mode in modes)
        )
        whole = name in {"splitlines", "read_bytes"} or (name == "read_text" and owner)
        if text_mode or whole or (name == "load" and owner in {"json", "tomllib"}):
            yield name


def test_no_product_code_reads_the_text_of_a_user_in_another_way():
    found = Counter(
        f"{path.relative_to(ROOT)}: {call}"
        for part in ("client", "service", "extraction")
        for path in sorted((ROOT / part).rglob("*.py"))
        for call in other_readers(path)
    )
    assert sorted(set(found) - set(ALLOWED)) == [], (
        "read it with trait_core.text_files, or name it here with the reason"
    )
    assert sorted(set(ALLOWED) - set(found)) == [], "no longer there"


@pytest.mark.parametrize(
    ("source", "calls"),
    [
        ("Path(x).read_text()", ["read_text"]),
        ("read_text(x)", []),
        ("text.splitlines()", ["splitlines"]),
        ("open(x)", ["open"]),
        ("path.open()", ["open"]),
        ("path.open('rb')", []),
        ("open(x, 'w', encoding='utf-8')", ["open"]),
        ("results.open()", []),
        ("json.load(stream)", ["load"]),
    ],
)
def test_the_search_finds_what_it_is_for(tmp_path, source, calls):
    (tmp_path / "module.py").write_text(source)
    assert list(other_readers(tmp_path / "module.py")) == calls
