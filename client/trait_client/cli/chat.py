"""`trait-client chat`: talk to the model, steer it in mid-conversation, and see traits token by token.

Each piece of a reply is coloured by the projection of the tokens in it, as it streams. The scale is the vector's own: -1
is the average negative example, +1 the average positive one.
"""

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from statistics import fmean
from typing import Annotated

import typer
from rich.style import Style
from rich.table import Table
from rich.text import Text

from trait_client.cli.console import CLI_RETRIES, Url, checked
from trait_client.http import TraitClient
from trait_client.http.replies import ChatDelta
from trait_client.http.settings import DEFAULT_URL
from trait_core.console import ApiKey, complain, err, out, plain
from trait_core.errors import TraitError
from trait_core.schema import CrossedBound, Message, Monitor, MonitoredDirection, Steering, SteeringTerm

HELP = """/steer NAME COEF [LAYER]   add a term, or replace the one of that vector
/off [NAME]                take one term away, or all
/monitor NAME[,NAME...]    choose the traits that are watched; the first one colours the text
/layer L                   watch layer L (/layer alone: each vector's own choice)
/clear                     forget the conversation
/quit                      leave (so does Ctrl-D)"""


@dataclass
class Conversation:
    """What has been said, and how the next reply is steered and watched.

    Args:
        client: The service.
        max_tokens: Longest reply.
        temperature: 0 is greedy.
        turns: So far.
        terms: Vector -> its term.
        watched: Vectors; the first one colours the text.
        layer: None: each vector's own choice.
    """

    client: TraitClient
    max_tokens: int
    temperature: float
    turns: list[Message] = field(default_factory=list)
    terms: dict[str, SteeringTerm] = field(default_factory=dict)
    watched: list[str] = field(default_factory=list)
    layer: int | None = None

    def reply(self, text: str) -> Iterator[ChatDelta]:
        """Send a turn and stream the answer; both are kept once it is whole."""
        turns = [*self.turns, Message(role="user", content=text)]
        pieces = []
        for delta in self.client.chat_stream(
            turns,
            steering=Steering(terms=list(self.terms.values())) if self.terms else None,
            monitor=self.monitor(),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
        ):
            pieces.append(delta.text)
            yield delta
        said = "".join(pieces)
        self.turns = [*turns, Message(role="assistant", content=said)] if said else turns

    def monitor(self) -> Monitor | None:
        """What is watched."""
        if not self.watched:
            return None
        layers = None if self.layer is None else [self.layer]
        return checked(Monitor, vectors=self.watched, layers=layers, prompt=False)

    def half_separation(self, direction: MonitoredDirection) -> float:
        """From the centre to the average example of either side, residual units."""
        evidence = self.client.vector(direction.vector).metadata.layers[direction.layer]
        return abs(evidence.separation) / 2 or 1.0


def chat(
    *,
    monitor: Annotated[
        str | None,
        typer.Option("--monitor", "-m", help="Vectors to watch, NAME[,NAME...]; the first colours the text."),
    ] = None,
    layer: Annotated[int | None, typer.Option("--layer", "-l", min=0, help="Layer to watch.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1)] = 128,
    temperature: Annotated[float, typer.Option(min=0)] = 0.0,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Chat with the model; see traits token by token, and steer as you go.

    Example: `trait-client chat --monitor refusal,sycophancy`, then `/steer refusal 1.5 13`. `/help` lists the commands.
    """
    with TraitClient(url, api_key, retries=CLI_RETRIES) as client:
        conversation = Conversation(client, max_tokens, temperature, watched=_names(monitor or ""), layer=layer)
        if err.is_terminal:
            err.print(plain(HELP), style="dim")
        converse(conversation, _lines())


def converse(conversation: Conversation, lines: Iterable[str]) -> None:
    """Answer each line, or obey it where it begins with a slash; a mistake is said, and the conversation goes on."""
    for line in lines:
        try:
            if not line.startswith("/"):
                print_reply(conversation, line)
            elif not _command(conversation, line):
                return
        except TraitError as error:
            complain(error)


def print_reply(conversation: Conversation, text: str) -> None:
    """Stream one reply, coloured, and sum up what was watched."""
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
        if delta.text:
            style = colour(fmean(row[0] for row in fresh) / scales[0]) if fresh else Style()
            out.print(Text(plain(delta.text).plain, style=style), end="", soft_wrap=True)
    out.print()
    if rows:
        out.print(summary(directions, scales, rows))
    if crossed is not None:
        out.print(f"{crossed.vector} crossed its bound at token {crossed.token}: {crossed.value:.4g}", style="yellow")


def colour(value: float) -> Style:
    """Of a projection on the scale where -1 and +1 are the average examples: blue below 0, red above, stronger further out."""
    strength = min(abs(value), 1.5) / 1.5
    faded = round(235 - 175 * strength)
    red, blue = (235, faded) if value > 0 else (faded, 235)
    return Style.parse(f"rgb({red},{faded},{blue})")


def summary(directions: list[MonitoredDirection], scales: list[float], rows: list[list[float]]) -> Table:
    """One row a direction: its course over the reply, mean, largest value, and where that is."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("trait", "layer", "reply (-1 negative, +1 positive examples)", "mean", "largest", "at token"):
        table.add_column(name, justify="left" if name.startswith(("trait", "reply")) else "right")
    for column, (direction, scale) in enumerate(zip(directions, scales, strict=True)):
        values = [row[column] / scale for row in rows]
        at = max(range(len(values)), key=values.__getitem__)
        line = Text()
        for value in _shortened(values, 40):
            line.append(_block(value), style=colour(value))
        table.add_row(
            direction.vector, str(direction.layer), line, f"{fmean(values):+.2f}", f"{values[at]:+.2f}", str(at)
        )
    return table


def _block(value: float) -> str:
    """A bar from the bottom at -1.5 to the top at +1.5."""
    blocks = "▁▂▃▄▅▆▇█"
    return blocks[min(max(int((value + 1.5) / 3 * len(blocks)), 0), len(blocks) - 1)]


def _shortened(values: list[float], width: int) -> list[float]:
    """At most `width` values, each the mean of its part."""
    if len(values) <= width:
        return values
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    return [fmean(values[a:b]) for a, b in itertools.pairwise(edges)]


# ------------------------------------------------------------------------------------------------------ commands


def _command(conversation: Conversation, line: str) -> bool:
    """Obey a line that begins with a slash; False: leave."""
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
        usage = next(text for text in HELP.splitlines() if text.startswith(f"/{name}"))
        complain(f"{line!r} is not understood: {' '.join(usage.split())}")
    return True


def _steer(conversation: Conversation, arguments: list[str]) -> None:
    vector, coefficient, *layer = arguments
    layers = [int(layer[0])] if layer else None
    term = checked(SteeringTerm, vector=vector, coefficient=float(coefficient), layers=layers)
    conversation.client.vector(vector)  # an unknown one is refused now, not at the next turn
    conversation.terms[vector] = term


def _off(conversation: Conversation, arguments: list[str]) -> None:
    for vector in arguments or list(conversation.terms):
        if conversation.terms.pop(vector, None) is None:
            complain(f"{vector!r} does not steer; steering: {', '.join(conversation.terms) or 'nothing'}")


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
    """Lines that are typed, or piped in."""
    while True:
        if sys.stdin.isatty():
            try:
                line = out.input("[bold]> [/bold]")
            except EOFError:
                return
        elif not (line := sys.stdin.readline()):
            return
        if line.strip():
            yield line.strip()
