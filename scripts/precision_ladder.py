"""One network shape at every precision, trained from the same seeds and connected: the precision ladder.

usage: python scripts/precision_ladder.py RUN --data mnist --data-root FOLDER --out FOLDER
example: python scripts/precision_ladder.py runs/ladder --data mnist --data-root data/mnist --out docs/results

It is `compare-nets run` with six precisions, fewer epochs, points and samples, and a document at the end; an
interrupted run goes on where it stopped. Writes OUT/ladder-DATA.md, OUT/ladder-DATA.png, and the records to
OUT/ladder-DATA/.
"""

import argparse
import itertools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import studies
import vl_convert

from compare.data import load_data
from compare.experiment import run
from compare.report import markdown
from compare.report.ladder_charts import ladder_charts
from compare.report.sections import sections
from compare.runs import Record, write_bytes, write_record, write_text
from compare.runs.configuration import configure
from compare.runs.provenance import command_line

PRECISIONS = ("binary", "ternary", "int2", "int4", "int8", "full")
HIDDEN, SEEDS, EPOCHS, POINTS, SAMPLES = (512, 512), (0, 1, 2), 5, 13, 5000


def document(records: Sequence[Record], name: str) -> str:
    """The whole document, from records alone."""
    made = records[0].provenance
    commands = dict.fromkeys(record.provenance.command or "not recorded" for record in records)
    revisions = dict.fromkeys(record.provenance.revision for record in records)
    return f"""# The precision ladder on {records[0].data.name}

![Barriers against bits]({name}.png)

Made by

```sh
{chr(10).join(commands)}
```

at revision {", ".join(revisions)}, with torch {made.packages["torch"]}, Brevitas
{made.packages.get("brevitas", "not recorded")}, Python {made.python}, {made.threads} threads, {made.platform}. The
[records]({name}/) hold every number below, the curves of each pair, seeds and configuration.

Networks of one precision differ only in their seed. All have the same shape, batch normalisation behind every linear
map, the same seeds, epochs, batches and optimiser. Weights and activations have the bits that are named: binary by
sign; ternary -1, 0, +1; k bits by Brevitas's `Int8WeightPerTensorFloat` (symmetric, one scale a tensor, by the largest
weight) and `QuantReLU` (one constant scale). So int2 has three levels of weights, too. The noise of the local energy is
put on latent weights: where the scale comes from the largest weight, it moves that scale too. Pairs share networks:
three seeds make three pairs that are not independent, and ± is a spread, no standard error.

## What the records say

{chr(10).join(_findings(records))}

{markdown(records).partition(chr(10))[2]}"""


def _findings(records: Sequence[Record]) -> Iterable[str]:
    """Plain comparisons of neighbours on the ladder, each said to hold only where all pairs agree."""
    by_bits = sorted({(record.bits, record.precision) for record in records if record.bits is not None})
    for (_, fewer), (_, more) in itertools.pairwise(by_bits):
        for statistics in ("interpolated", "re-estimated"):
            low, high = (_heights(records, precision, statistics) for precision in (fewer, more))
            verdict = (
                "higher in every pair" if min(low) > max(high) else
                "lower in every pair" if max(low) < min(high) else "not told apart: the ranges overlap"
            )  # fmt: skip
            yield (
                f"- {fewer} against {more}, matched, {statistics}, train samples: barrier {_range(low)} against "
                f"{_range(high)} pp; {verdict}"
            )


def _heights(records: Sequence[Record], precision: str, statistics: str) -> list[float]:
    wanted = ("matched", "linear", statistics, "train")
    return [
        100 * curve.barrier
        for record in records
        if record.precision == precision
        for curve in record.curves
        if (curve.treatment, curve.path, curve.statistics, curve.split) == wanted
    ]


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = studies.parser(
        "Train one shape at every precision, connect all pairs, and write the ladder.",
        "precision_ladder.py runs/ladder --data mnist --data-root data/mnist --out out",
        folder="output folder of the run; an interrupted one goes on",
        data="digits",
    )
    parser.add_argument("--precisions", default=",".join(PRECISIONS), help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="number of seeds (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="default: %(default)s")
    parser.add_argument("--out", type=Path, required=True, help="folder of the document")
    return parser.parse_args(arguments)


def measured(options: argparse.Namespace) -> list[Record]:
    """The records of the run, measured where they are not there yet."""
    configuration = configure(
        {
            "data": options.data,
            "precisions": options.precisions.split(","),
            "seeds": list(range(options.seeds)),
            "architecture.hidden": list(HIDDEN),
            "training.epochs": options.epochs,
            "points": POINTS,
            "samples": SAMPLES,
        }
    )
    data = load_data(options.data, root=options.data_root)
    return run(configuration, data, options.run, command=command_line())


def written(folder: Path, name: str, records: Sequence[Record]) -> None:
    """The document, its picture and its records.

    Raises:
        CompareError: If they cannot be written.
    """
    for record in records:
        seeds = "-".join(str(network.seed) for network in record.networks)
        write_record(record, folder / name / f"{record.precision}-{seeds}.json")
    (section,) = sections(records)
    chart = next((chart for chart in ladder_charts(section) if "arrier" in chart.title), None)
    if chart is not None:
        write_bytes(folder / f"{name}.png", vl_convert.vegalite_to_png(chart.spec, scale=1.25))
    write_text(folder / f"{name}.md", document(records, name))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not there yet, then write the document; 0 if all is well, 2 for what the user can mend."""
    options = parsed(arguments)
    name = f"ladder-{options.data}"
    return studies.finished("precision_ladder.py", options, name, lambda: written(options.out, name, measured(options)))


if __name__ == "__main__":
    sys.exit(main())
