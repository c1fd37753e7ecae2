"""`make demo`: from serving to SQL on the small model, with the commands a user would type.

Starts the service, extracts three trait vectors, steers one prompt, runs the demo sweep and ends with its results in
SQL. What it makes is in `demo/`; a second run continues from there. `make demo MODEL=qwen2.5-coder-0.5b` does the same on that
model, in `demo/qwen2.5-coder-0.5b`.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from trait_client.http.local_service import free_port, running_service
from trait_core.errors import ServiceError

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
TRAITS = ("refusal", "question_asking", "sycophancy")
SMALL = "smollm2"
LAYERS = {SMALL: 13, "qwen2.5-coder-0.5b": 12}
"""Model -> layer on which the one prompt is steered."""
PROMPT = "Can you give me a simple recipe for pancakes?"
QUESTION = """
select trait, layer, coefficient as coef, baseline::int as base, steered::int as steered,
       format('{:+d} [{:d}, {:d}]', delta::int, ci_low::int, ci_high::int) as delta_ci95,
       coherence::int as coherence, format('[{:d}, {:d}]', control_low::int, control_high::int) as random
from best_coherent order by trait
"""


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=LAYERS, default=SMALL)
    model = parser.parse_args().model
    own = "" if model == SMALL else model
    demo, experiment = Path("demo") / own, Path("experiments/demo") / own / "experiment.toml"
    os.chdir(ROOT)
    demo.mkdir(exist_ok=True, parents=True)
    db = str(demo / "results.duckdb")
    say(f"A vLLM server that can steer: {model} on this machine's CPU (log: {demo}/service.log)")
    with service(model, demo) as url:
        say("Trait vectors from written contrastive pairs: captured activations, difference of means, every layer")
        traits = [word for trait in TRAITS for word in ("--trait", trait)]
        run(
            "trait-extract",
            "run",
            *traits,
            "--method",
            "mean_diff",
            "--out",
            f"{demo}/vectors",
            "--register",
            "--url",
            url,
        )
        say("One prompt, unsteered and steered, in one batch")
        run(
            "trait-client", "steer", "--trait", "refusal", "--layer", str(LAYERS[model]), "--coef", "1.5",
            "--max-tokens", "64", PROMPT, "--url", url,
        )  # fmt: skip
        say("A sweep: every cell on every evaluation question, all at once, beside random directions of the same dose")
        run("trait-client", "sweep", str(experiment), "--db", db, "--url", url)
    say("The results are SQL. random: the deltas of four random directions at the same dose")
    run("trait-client", "sql", " ".join(QUESTION.split()), "--db", db)
    return 0


@contextmanager
def service(model: str, demo: Path) -> Iterator[str]:
    """Address of a service that is started on a free port and stopped at the end."""
    # Eager: ready in seconds. Compiled is about 15 % faster here and takes a minute or more to start.
    arguments = [model, "--enforce-eager", "--vectors", f"{demo}/registry", "--max-model-len", "2048"]
    arguments += ["--max-num-seqs", "128"]
    port = free_port()
    show(["trait-service", "serve", *arguments, "--port", str(port)])
    began = time.monotonic()
    with ExitStack() as stack:
        try:
            url = stack.enter_context(running_service(arguments, demo / "service.log", port=port))
        except ServiceError as error:
            sys.exit(str(error))
        print(f"  ready after {time.monotonic() - began:.0f} s", flush=True)
        yield url


def run(*command: str) -> None:
    """Show a command and run it; the demo ends if it fails."""
    show(command)
    done = subprocess.run([BIN / command[0], *command[1:]], check=False)
    if done.returncode:
        sys.exit(f"{command[0]} ended with exit code {done.returncode}")


def say(text: str) -> None:
    """Print a line of explanation between commands."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def show(command: tuple[str, ...] | list[str]) -> None:
    """Format the command as a user would type it."""
    words = [f'"{word}"' if "'" in word and '"' not in word else shlex.quote(word) for word in command]
    print("  $ " + " ".join(words), flush=True)


if __name__ == "__main__":
    sys.exit(main())
