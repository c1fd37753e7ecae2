"""`trait-client chat`: talk to the model, steer it during the conversation, and see traits token by token.

Each piece of a reply is coloured by the projection of its tokens as it streams. On the vector's own scale, -1 is the
average negative example and +1 the average positive one.
"""

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from statistics import fmean
from typing import Annotated, Any

import typer
from rich.style import Style
from rich.text import Text

from trait_client.cli.console import CLI_RETRIES, Url, checked
from trait_client.cli.template_options import TemplateKwargs, parsed_kwargs
from trait_client.http import TraitClient
from trait_client.http.replies import ChatDelta
from trait_client.http.settings import DEFAULT_URL
from trait_client.http.template_check import require_template
from trait_core.console import ApiKey, complain, err, out, plain, print_table
from trait_core.errors import TraitError
from trait_core.schema import CrossedBound, Message, Monitor, MonitoredDirection, Steering, SteeringTerm
from trait_core.tables import Cell, Column, Table
from trait_core.text_files import decode

COURSE_WIDTH = 24
"""Bars of a reply's course; with the other columns they fit 60 columns."""

HELP = """/steer NAME COEF [LAYER]   add a term, or replace that vector's term
/off [NAME]                remove one term, or all
/monitor NAME[,NAME...]    choose the traits to monitor; the first one colours the text
/layer L                   monitor layer L (/layer alone: each vector's chosen layer)
/clear                     forget the conversation
/quit                      quit (or Ctrl-D)"""


@dataclass
class Conversation:
    """The turns so far, and how the next reply is steered and monitored.

    Args:
        client: The service.
        max_tokens: Longest reply.
        temperature: Sampling temperature; 0 is greedy.
        turns: The messages so far.
        terms: Vector -> its steering term.
        watched: Monitored vectors; the first one colours the text.
        layer: Monitored layer; None means each vector's chosen layer.
        template_kwargs: Variables of the chat template.
    """

    client: TraitClient
    max_tokens: int
    temperature: float
    turns: list[Message] = field(default_factory=list)
    terms: dict[str, SteeringTerm] = field(default_factory=dict)
    watched: list[str] = field(default_factory=list)
    layer: int | None = None
    template_kwargs: dict[str, Any] | None = None

    def reply(self, text: str) -> Iterator[ChatDelta]:
        """Send a turn and stream the reply; both are kept once the reply is complete."""
        turns = [*self.turns, Message(role="user", content=text)]
        pieces = []
        for delta in self.client.chat_stream(
            turns,
            steering=Steering(terms=list(self.terms.values())) if self.terms else None,
            monitor=self.monitor(),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            chat_template_kwargs=self.template_kwargs,
        ):
            pieces.append(delta.text)
            yield delta
        # An empty reply is kept as well: many templates want the roles to take turns.
        self.turns = [*turns, Message(role="assistant", content="".join(pieces))]

    def monitor(self) -> Monitor | None:
        """The request's monitor; None if no vector is monitored."""
        if not self.watched:
            return None
        layers = None if self.layer is None else [self.layer]
        return checked(Monitor, vectors=self.watched, layers=layers, prompt=False)

    def half_separation(self, direction: MonitoredDirection) -> float:
        """Distance from the centre to the average example of either side, residual units."""
        evidence = self.client.vector(direction.vector).metadata.layers[direction.layer]
        return abs(evidence.separation) / 2 or 1.0


def chat(
    *,
    monitor: Annotated[
        str | None,
        typer.Option("--monitor", "-m", help="Vectors to monitor, NAME[,NAME...]; the first one colours the text."),
    ] = None,
    layer: Annotated[
        int | None, typer.Option("--layer", "-l", min=0, help="Layer to monitor [default: each vector's chosen layer].")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply, tokens.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature; 0 is greedy.")] = 0.0,
    template_kwargs: TemplateKwargs = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Chat with the model, see traits token by token, and steer at any time.

    Example: `trait-client chat --monitor refusal,sycophancy`, then `/steer refusal 1.5 13`. `/help` lists the commands.
    """
    variables = parsed_kwargs(template_kwargs)
    with TraitClient(url, api_key, retries=CLI_RETRIES) as client:
        require_template(client.info(), variables)
        conversation = Conversation(
            client,
            max_tokens,
            temperature,
            watched=_names(monitor or ""),
            layer=layer,
            template_kwargs=variables,
        )
        if err.is_terminal:
            err.print(plain(HELP), style="dim")
        converse(conversation, _lines())


def converse(conversation: Conversation, lines: Iterable[str]) -> None:
    """Answer each line, or run it as a command if it begins with a slash. An error is printed and the conversation continues."""
    for line in lines:
        try:
            if not line.startswith("/"):
                print_reply(conversation, line)
            elif not _command(conversation, line):
                return
        except TraitError as error:
            complain(error)


def print_reply(conversation: Conversation, text: str) -> None:
    """Stream one coloured reply, then print a summary of the monitored directions."""
    scales: list[float] = []
    rows: list[list[float]] = []
    directions: list[MonitoredDirection] = []
    crossed: CrossedBound | None = None
    for delta in conversation.reply(text):
        fresh: list[list[float]] = []
        if delta.monitor is not None:
            if not directions:
                directions = delta.monitor.directions
                scales = [conversation.half_separation(direction) for direction in directions]
            for choice in delta.monitor.choices:
                fresh += choice.generated
                crossed = choice.crossed or crossed
        rows += fresh
        if delta.reasoning:
            out.print(Text(plain(delta.reasoning).plain, style="dim"), end="", soft_wrap=True)
        if delta.text:
            style = colour(fmean(row[0] for row in fresh) / scales[0]) if fresh else Style()
            out.print(Text(plain(delta.text).plain, style=style), end="", soft_wrap=True)
    out.print()
    if rows:
        print_table(summary(directions, scales, rows))
    if crossed is not None:
        out.print(f"{crossed.vector} crossed its bound at token {crossed.token}: {crossed.value:.4g}", style="yellow")


def colour(value: float) -> Style:
    """Colour of a projection on the scale where -1 and +1 are the average examples: blue below 0, red above."""
    strength = min(abs(value), 1.5) / 1.5
    faded = round(235 - 175 * strength)
    red, blue = (235, faded) if value > 0 else (faded, 235)
    return Style.parse(f"rgb({red},{faded},{blue})")


def summary(directions: list[MonitoredDirection], scales: list[float], rows: list[list[float]]) -> Table:
    """One row per direction: its course over the reply, its mean, its largest value and the token of that value."""
    numbers = [Column(heading, right=True) for heading in ("mean", "largest", "at token")]
    columns = [Column("trait"), Column("layer", right=True), Column("reply (-1 negative, +1 positive examples)")]
    lines: list[list[Cell]] = []
    for i, (direction, scale) in enumerate(zip(directions, scales, strict=True)):
        values = [row[i] / scale for row in rows]
        at = max(range(len(values)), key=values.__getitem__)
        course = Text()
        for value in _shortened(values, COURSE_WIDTH):
            course.append(_block(value), style=colour(value))
        found = (f"{fmean(values):+.2f}", f"{values[at]:+.2f}", str(at))
        lines.append([direction.vector, str(direction.layer), course, *found])
    return Table([*columns, *numbers], lines)


def _block(value: float) -> str:
    """A bar from the bottom at -1.5 to the top at +1.5."""
    blocks = "▁▂▃▄▅▆▇█"
    return blocks[min(max(int((value + 1.5) / 3 * len(blocks)), 0), len(blocks) - 1)]


def _shortened(values: list[float], width: int) -> list[float]:
    """At most `width` values, each the mean of its segment."""
    if len(values) <= width:
        return values
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    return [fmean(values[a:b]) for a, b in itertools.pairwise(edges)]


# ------------------------------------------------------------------------------------------------------ commands


def _command(conversation: Conversation, line: str) -> bool:
    """Run a line that begins with a slash; False means quit."""
    name, *arguments = line[1:].split() or [""]
    commands: dict[str, Callable[[Conversation, list[str]], None]] = {
        "steer": _steer,
        "off": _off,
        "monitor": _monitor,
        "layer": _layer,
        "clear": lambda conversation, _: conversation.turns.clear(),
        "help": lambda *_: out.print(plain(HELP)),
    }
    if name in ("quit", "exit"):
        return False
    if name not in commands:
        complain(f"no command /{name}: /help lists them")
        return True
    try:
        commands[name](conversation, arguments)
    except (ValueError, IndexError):
        usage = next(text for text in HELP.split("\n") if text.startswith(f"/{name}"))
        complain(f"{line!r} is not a valid command: {' '.join(usage.split())}")
    return True


def _steer(conversation: Conversation, arguments: list[str]) -> None:
    vector, coefficient, *layer = arguments
    layers = [int(layer[0])] if layer else None
    term = checked(SteeringTerm, vector=vector, coefficient=float(coefficient), layers=layers)
    conversation.client.vector(vector)  # refuse an unknown vector now, not at the next turn
    conversation.terms[vector] = term


def _off(conversation: Conversation, arguments: list[str]) -> None:
    for vector in arguments or list(conversation.terms):
        if conversation.terms.pop(vector, None) is None:
            complain(f"{vector!r} has no term; steering: {', '.join(conversation.terms) or 'nothing'}")


def _monitor(conversation: Conversation, arguments: list[str]) -> None:
    watched = _names(",".join(arguments))
    for vector in watched:
        conversation.client.vector(vector)
    conversation.watched = watched


def _layer(conversation: Conversation, arguments: list[str]) -> None:
    conversation.layer = int(arguments[0]) if arguments else None


def _names(text: str) -> list[str]:
    return [name for name in map(str.strip, text.split(",")) if name]


def _lines() -> Iterator[str]:
    """Lines from the terminal, or from a pipe."""
    while True:
        if sys.stdin.isatty():
            try:
                line = out.input("[bold]> [/bold]")
            except EOFError:
                return
        elif not (line := _piped_line()):
            return
        if line.strip():
            yield line.strip()


def _piped_line() -> str:
    """The next line of a pipe, read as a text file is; "" at its end."""
    buffer = getattr(sys.stdin, "buffer", None)
    return sys.stdin.readline() if buffer is None else decode(buffer.readline(), "standard input")
