"""Lexical metrics: 0 to 100 for one text, defined as JSON in a trait's `steering.json`.

They need no judge and no model: the same text always gets the same number. Each docstring defines its metric.
"""

import re
import unicodedata
from functools import cache
from typing import Annotated, Any, Literal, Self

from py3langid.langid import MODEL_FILE, LanguageIdentifier
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from trait_core.errors import InvalidRequestError, first_fault

Language = Literal["en", "fr", "de", "es", "it", "pt"]
LANGUAGES: tuple[Language, ...] = ("en", "fr", "de", "es", "it", "pt")

_CLOSERS = "\"')]*_\u201d\u2019"
_SENTENCE_END = re.compile(rf"(?<=[.!?\u2026])[{re.escape(_CLOSERS)}]*\s+|\n+")


class _Metric(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Pattern = Annotated[str, Field(min_length=1, max_length=10_000)]


class Matches(_Metric):
    """100 if one of the patterns matches, else 0.

    Attributes:
        patterns: Regular expressions, case-insensitive; `^` is the beginning of the text.
        within: Number of leading characters to search, after leading white space is dropped; None searches the whole text.
    """

    kind: Literal["matches"]
    patterns: Annotated[list[Pattern], Field(min_length=1)]
    within: Annotated[int, Field(ge=1)] | None = None

    @field_validator("patterns")
    @classmethod
    def _compile_all(cls, patterns: list[str]) -> list[str]:
        return [_compilable(pattern) for pattern in patterns]

    def score(self, text: str) -> float:
        """0 or 100."""
        head = _plain_quotes(text).lstrip()[: self.within]
        return 100.0 if any(re.search(pattern, head, re.IGNORECASE) for pattern in self.patterns) else 0.0


class SentenceShare(_Metric):
    """Percentage of sentences that match the pattern; 0 for a text without sentences.

    A sentence ends with `.`, `!`, `?` or an ellipsis before white space, or at a line break. A sentence without a letter
    or digit counts only if it matches.
    """

    kind: Literal["sentence_share"]
    pattern: Pattern

    @field_validator("pattern")
    @classmethod
    def _compile(cls, pattern: str) -> str:
        return _compilable(pattern)

    def score(self, text: str) -> float:
        """0 to 100."""
        hits = total = 0
        for sentence in sentences(_plain_quotes(text)):
            hit = re.search(self.pattern, sentence, re.IGNORECASE) is not None
            hits += hit
            total += hit or any(char.isalnum() for char in sentence)
        return 100.0 * hits / total if total else 0.0


class UppercaseShare(_Metric):
    """Percentage of cased letters that are upper case; 0 for a text without any."""

    kind: Literal["uppercase_share"]

    def score(self, text: str) -> float:
        """0 to 100."""
        upper = sum(char.isupper() for char in text)
        cased = upper + sum(char.islower() for char in text)
        return 100.0 * upper / cased if cased else 0.0


class LexiconBalance(_Metric):
    """100 h / (h + l), where h and l count occurrences of `high` and `low` entries; 50 if there are none.

    Attributes:
        high: Words or phrases, matched whole and case-insensitively; a trailing `*` matches any word ending.
        low: The same for the other side.
    """

    kind: Literal["lexicon_balance"]
    high: Annotated[list[Pattern], Field(min_length=1)]
    low: Annotated[list[Pattern], Field(min_length=1)]

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        if both := sorted(set(self.high) & set(self.low)):
            raise ValueError(f"entries are in both high and low: {', '.join(both[:5])}")
        return self

    def score(self, text: str) -> float:
        """0 to 100."""
        plain = _plain_quotes(text)
        high, low = (len(_lexicon(tuple(entries)).findall(plain)) for entries in (self.high, self.low))
        return 100.0 * high / (high + low) if high + low else 50.0


class LanguageShare(_Metric):
    """Percentage of letters in sentences that py3langid classifies as the language.

    py3langid chooses among English, French, German, Spanish, Italian and Portuguese. 0 for a text without letters.
    """

    kind: Literal["language"]
    language: Language

    def score(self, text: str) -> float:
        """0 to 100."""
        inside = total = 0
        for sentence in sentences(text):
            letters = sum(char.isalpha() for char in sentence)
            if letters:
                total += letters
                inside += letters * (_identifier().classify(sentence)[0] == self.language)
        return 100.0 * inside / total if total else 0.0


Metric = Annotated[
    Matches | SentenceShare | UppercaseShare | LexiconBalance | LanguageShare, Field(discriminator="kind")
]

_METRIC: TypeAdapter[Metric] = TypeAdapter(Metric)


def parse_metric(definition: Any) -> Metric:
    """Read a metric from its JSON value.

    Raises:
        InvalidRequestError: Not a known metric; the message names the field and its value.
    """
    try:
        return _METRIC.validate_python(definition)
    except ValidationError as error:
        fault = first_fault(error, within="metric")
        raise InvalidRequestError(fault.with_value(), param=fault.where) from error


def sentences(text: str) -> list[str]:
    """Split a text after sentence-ending marks and at line breaks; closing quotes, brackets and emphasis are dropped."""
    return [piece for part in _SENTENCE_END.split(text) if (piece := part.strip().rstrip(_CLOSERS))]


def _compilable(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
    return pattern


def _plain_quotes(text: str) -> str:
    """Compose characters canonically and replace typographic apostrophes, so that both spellings of `can't` are equal."""
    return unicodedata.normalize("NFC", text).replace("\u2019", "'").replace("\u2018", "'")


@cache
def _lexicon(entries: tuple[str, ...]) -> re.Pattern[str]:
    """One alternation, longest entry first, so that a phrase takes precedence over its first word."""
    forms = []
    for entry in sorted(entries, key=len, reverse=True):
        stem, star = (entry[:-1], r"\w*") if entry.endswith("*") else (entry, "")
        forms.append(r"\s+".join(re.escape(word) for word in _plain_quotes(stem).split()) + star)
    return re.compile(rf"(?<!\w)(?:{'|'.join(forms)})(?!\w)", re.IGNORECASE)


@cache
def _identifier() -> LanguageIdentifier:
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages(list(LANGUAGES))
    return identifier
