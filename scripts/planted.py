"""Hide a known symmetry of a residual network behind noise and count how often matching finds it again.

usage: python scripts/planted.py [--cases N] [--large-cases N] [--starts NAME ...] [--noise SIGMA ...] [--out FILE]
example: python scripts/planted.py --cases 10 --large-cases 0

Network a has Gaussian weights, b is g a plus Gaussian noise, for a random element g of permutations, and of signs where
the activation is odd. A case counts as recovered only if matching returns the inverse of g, every unit and every sign.
Writes a table in Markdown to standard output.
"""

import argparse
import itertools
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import fullprecision
from compare.params import Params
from compare.progress import progress
from compare.runs import write_text
from compare.runs.provenance import provenance
from compare.symmetry import Element, Graph, match, random_element, trace
from compare.symmetry.matching import Start

INPUTS, OUTPUTS, BLOCKS = 5, 5, 2
NOISE = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
SIZES = {"small": (30, 50), "large": (100, 200)}
"""Units of the residual stream and inside each of its blocks."""
ACTIVATIONS = {"permutations": nn.ReLU, "permutations and signs": nn.Tanh}
STARTS: dict[str, tuple[Start, ...] | None] = {
    "descriptors": ("descriptors",),
    "annealing": ("annealing",),
    "default": None,
    "identity": ("identity",),
}
"""What the table compares; None leaves the starts to ``match``."""


class Residual(nn.Module):
    """A stream that two blocks add to: f(W x), then twice x + V f(U x), and a linear map at the end."""

    def __init__(self, stream: int, hidden: int, activation: type[nn.Module]) -> None:
        """Draw the weights.

        Args:
            stream: Units of the stream.
            hidden: Units inside each block.
            activation: The function f.
        """
        super().__init__()
        self.first, self.last = nn.Linear(INPUTS, stream), nn.Linear(stream, OUTPUTS)
        self.inner = nn.ModuleList(nn.Linear(stream, hidden) for _ in range(BLOCKS))
        self.outer = nn.ModuleList(nn.Linear(hidden, stream) for _ in range(BLOCKS))
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``[samples, 5]`` for inputs ``[samples, 5]``."""
        x = self.activation(self.first(x))
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = x + outer(self.activation(inner(x)))
        return self.last(x)  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Case:
    """Two networks and the element between them.

    Attributes:
        a: Gaussian weights and biases.
        b: ``hidden`` applied to ``a``, with noise.
        hidden: The element that matching has to undo.
    """

    a: Params
    b: Params
    hidden: Element


def residual(size: str, group: str) -> Graph:
    """The symmetries of one of the networks.

    Args:
        size: A key of ``SIZES``.
        group: A key of ``ACTIVATIONS``.

    Returns:
        The graph.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Residual(*SIZES[size], ACTIVATIONS[group]).eval()
        return trace(model, torch.randn(8, INPUTS), fullprecision.FAMILY)


def planted(graph: Graph, sigma: float, seed: int) -> Case:
    """Draw a network and a noisy symmetric copy.

    Args:
        graph: The network's symmetries.
        sigma: Standard deviation of the noise, where that of the weights is 1.
        seed: Seed of everything that is drawn.

    Returns:
        The case; no unit is scaled.
    """
    generator = torch.Generator().manual_seed(seed)
    a = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in graph.reference.items()}
    drawn = random_element(graph, generator)
    hidden = Element(graph, drawn.permutations, tuple(d.sign() for d in drawn.diagonals))
    moved = hidden.apply(a)
    b = {name: tensor + sigma * torch.randn(tensor.shape, generator=generator) for name, tensor in moved.items()}
    return Case(a, b, hidden)


def recovered(case: Case, starts: Sequence[Start] | None, seed: int) -> tuple[bool, float]:
    """Match, and compare with what was hidden.

    Args:
        case: The two networks.
        starts: Where descents begin; None for the default.
        seed: Seed of the matching.

    Returns:
        Whether every unit and sign is right, and the seconds it took.
    """
    options = {} if starts is None else {"starts": starts}
    found = match(case.hidden.graph, case.a, case.b, seed=seed, **options)  # type: ignore[arg-type]
    return found.element == case.hidden.inverse(), found.seconds


def table(counts: dict[str, int], noise: Sequence[float], names: Sequence[str], *, quiet: bool = True) -> str:
    """The table.

    Args:
        counts: Cases for each key of ``SIZES``; 0 leaves it out.
        noise: Levels of noise.
        names: Keys of ``STARTS``.
        quiet: Whether to show no progress, even on a terminal.

    Returns:
        Markdown: one row for each size, group and start; the last column holds the median seconds of a match.
    """
    rows = [row for row in itertools.product(SIZES, ACTIVATIONS, names) if counts[row[0]]]
    graphs = {row[:2]: residual(*row[:2]) for row in rows}
    cells: dict[tuple[str, ...], list[str]] = {row: [] for row in rows}
    seconds: dict[tuple[str, ...], list[float]] = {row: [] for row in rows}
    work = list(itertools.product(rows, noise))
    for row, sigma in progress(work, None if quiet else "planted", unit="cell"):
        cases = (planted(graphs[row[:2]], sigma, seed) for seed in range(counts[row[0]]))
        results = [recovered(case, STARTS[row[2]], seed) for seed, case in enumerate(cases)]
        cells[row].append(f"{sum(right for right, _ in results)}/{len(results)}")
        seconds[row] += [taken for _, taken in results]
    lines = [
        ["units", "group", "start", *(f"noise {sigma:g}" for sigma in noise), "seconds"],
        ["---"] * (len(noise) + 4),
    ]
    for row in rows:
        units = " and ".join(map(str, SIZES[row[0]]))
        lines.append([units, *row[1:], *cells[row], f"{statistics.median(seconds[row]):.2g}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Read the options and print the table."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS
    )
    parser.add_argument("--cases", type=int, default=100, help="networks of 30 and 50 units (default: 100)")
    parser.add_argument("--large-cases", type=int, default=20, help="networks of 100 and 200 units (default: 20)")
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS), help="rows (default: all)")
    parser.add_argument("--noise", nargs="+", type=float, default=NOISE, help="columns (default: 0, 0.1 to 0.5)")
    parser.add_argument("--out", type=Path, help="file for the table with a heading (default: the table, printed)")
    options = parser.parse_args()
    if min(options.cases, options.large_cases) < 0 or options.cases + options.large_cases == 0:
        parser.error("expected at least one case, --cases or --large-cases above 0")
    torch.set_num_threads(1)
    counts = {"small": options.cases, "large": options.large_cases}
    made = table(counts, options.noise, options.starts, quiet=False)
    if options.out is None:
        print(made)
    else:
        write_text(options.out, f"{heading(shlex.join(['python', *sys.argv]))}\n\n{made}\n")


def heading(command: str) -> str:
    """What the table is, and where it comes from."""
    made = provenance(threads=1, command=command)
    packages = f"torch {made.packages['torch']}, SciPy {made.packages['scipy']}, Python {made.python}"
    return f"""# Planted symmetries

Residual networks with {INPUTS} inputs, a stream, {BLOCKS} blocks and {OUTPUTS} outputs, Gaussian weights, against a
copy under a random element of their group plus Gaussian noise of the given standard deviation (that of the weights is
1). Counted is how often matching returns the very inverse of the element, all units and all signs. Units: those of
the stream and inside each block. Seconds: median of one match; they depend on the machine and on what else it does.

Made by

```sh
{made.command}
```

at revision {made.revision}, with {packages}, one thread, {made.platform}."""


if __name__ == "__main__":
    main()
