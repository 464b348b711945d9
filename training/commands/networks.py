"""`dicomtrain networks`: what can be trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rich.table import Table

from inference.networks.build import build_network
from training.commands.console import AsJson, console, print_json
from training.networks import CATALOGUE, NetworkFamily, count_flops, count_parameters

WINDOW = (128, 128)


@dataclass(frozen=True)
class Listed:
    """One line: a method, and its size as a 2-D network with 1 channel and 2 classes."""

    name: str
    title: str
    paper: str
    dims: tuple[int, ...]
    traditional: bool
    parameters: int | None
    multiply_adds: int | None
    """Of one forward pass over `WINDOW`."""


def networks(as_json: AsJson = False) -> None:
    """List what can be trained and compared: names for `network = "..."`, papers, sizes, cost.

    Parameters and multiply-adds are those of the 2-D network with one channel and two classes, over
    one window of 128 x 128 pixels.
    """
    listed = [describe(family) for family in CATALOGUE.values()]
    if as_json:
        print_json([asdict(entry) for entry in listed])
    else:
        console.print(as_table(listed))


def describe(family: NetworkFamily) -> Listed:
    """Build the network once, to count."""
    parameters = multiply_adds = None
    if family.build is not None:
        network = build_network(family.build(2, 1, 2, WINDOW))
        parameters, multiply_adds = count_parameters(network), count_flops(network, (1, 1, *WINDOW))
    return Listed(
        family.name, family.title, family.paper, family.dims, family.traditional, parameters, multiply_adds
    )


def as_table(listed: list[Listed]) -> Table:
    """Sizes in millions, for people."""
    table = Table(caption="Sizes: 2-D, 1 channel, 2 classes, 128 x 128")
    for column in ("name", "title", "paper", "dims"):
        table.add_column(column, no_wrap=column == "name")
    table.add_column("parameters (M)", justify="right")
    table.add_column("multiply-adds (M)", justify="right")
    for entry in listed:
        dims = "traditional" if entry.traditional else ", ".join(f"{n}-D" for n in entry.dims)
        sizes = (millions(entry.parameters), millions(entry.multiply_adds))
        table.add_row(entry.name, entry.title, entry.paper, dims, *sizes)
    return table


def millions(count: int | None) -> str:
    """A count in millions; a dash where there is nothing to count."""
    return "-" if count is None else f"{count / 1e6:.2f}"
