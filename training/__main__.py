"""The command `dicomtrain`."""

from __future__ import annotations

import sys

import typer

from inference.errors import InferenceError
from training.commands.check import check
from training.commands.compare import compare
from training.commands.console import complaints
from training.commands.evaluate import evaluate, scan
from training.commands.export import export
from training.commands.fast import fast
from training.commands.fit import fit
from training.commands.label_shares import label_shares
from training.commands.networks import networks
from training.commands.pretrain import pretrain
from training.commands.trust import trust
from training.commands.tune import tune
from training.errors import TrainingError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train segmentation models, measure and compare them, and hand them over as bundles.",
)
for command in (
    networks,
    check,
    fit,
    export,
    evaluate,
    scan,
    fast,
    trust,
    compare,
    tune,
    pretrain,
    label_shares,
):
    app.command()(command)


def main() -> None:
    """Entry point: errors of this project end in one message and exit code 1, without a traceback."""
    try:
        app()
    except (TrainingError, InferenceError) as error:
        complaints.print(f"[bold red]error:[/] {error}", soft_wrap=True, highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        complaints.print("interrupted; run the same command again to go on")
        sys.exit(130)


if __name__ == "__main__":
    main()
