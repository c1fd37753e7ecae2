"""`trait-extract`: vectors from contrastive datasets. Results on stdout, progress and errors on stderr."""

import sys

import typer
from trait_core.errors import InvalidRequestError, TraitError

from trait_extraction.cli.console import FAILED, INTERRUPTED, USAGE, fail
from trait_extraction.cli.extract import check, run, show
from trait_extraction.cli.interchange import export_command, import_command
from trait_extraction.cli.report import report_command
from trait_extraction.cli.scaffold import new_trait_command
from trait_extraction.cli.transfer import apply_command

__all__ = ["app", "main"]

app = typer.Typer(
    help="Extract trait vectors: contrastive prompts -> captured activations -> vector files.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(run)
app.command()(check)
app.command()(show)
app.command("report")(report_command)
app.command("new-trait")(new_trait_command)
app.command("import")(import_command)
app.command("export")(export_command)
app.command("apply")(apply_command)


def main() -> None:
    """Run the command line; expected errors become one line and an exit code."""
    try:
        app()
    except InvalidRequestError as error:
        sys.exit(fail(error, USAGE))
    except (TraitError, OSError) as error:
        sys.exit(fail(error, FAILED))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
