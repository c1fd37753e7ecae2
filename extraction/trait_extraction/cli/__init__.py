"""`trait-extract`: vectors from contrastive datasets. Results on stdout, progress and errors on stderr."""

import typer
from trait_core.console import run as run_app

from trait_extraction.cli.extract import check, run, show
from trait_extraction.cli.interchange import export_command, import_command
from trait_extraction.cli.lens import lens_command
from trait_extraction.cli.report import report_command
from trait_extraction.cli.scaffold import new_trait_command
from trait_extraction.cli.transfer import apply_command

__all__ = ["app", "main"]

app = typer.Typer(
    help="Extract trait vectors: contrastive prompts -> captured activations -> vector files.",
    rich_markup_mode="markdown",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(run)
app.command()(check)
app.command()(show)
app.command("lens")(lens_command)
app.command("report")(report_command)
app.command("new-trait")(new_trait_command)
app.command("import")(import_command)
app.command("export")(export_command)
app.command("apply")(apply_command)


def main() -> None:
    """Entry point of the console script."""
    run_app(app)
