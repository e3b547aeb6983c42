"""Write a results document from the records of the MNIST run: claims with what was measured, all tables, the figure.

usage: python scripts/results.py RUN --out FOLDER
example: python scripts/results.py runs/mnist --out docs/results

Writes FOLDER/mnist.md, FOLDER/mnist.png and copies the records to FOLDER/mnist/; no number is typed by hand.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import studies
import vl_convert

from compare.report import markdown
from compare.report.charts import path_chart
from compare.report.sections import sections
from compare.runs import Record, read_records, write_bytes, write_record, write_text
from compare.runs.record import Curve, Statistics, Treatment

NAME = "mnist"


def document(records: Sequence[Record]) -> str:
    """The whole document, from records alone."""
    made = records[0].provenance
    commands = dict.fromkeys(record.provenance.command or "not recorded" for record in records)
    revisions = dict.fromkeys(record.provenance.revision for record in records)
    tables = markdown(records).partition("\n")[2]
    return f"""# MNIST: binary and full precision side by side

![Error along the straight line, train samples]({NAME}.png)

Made by

```sh
{chr(10).join(commands)}
python scripts/results.py runs/mnist --out docs/results
```

from the original IDX files, at revision {", ".join(revisions)}, with torch {made.packages["torch"]},
Python {made.python}, {made.threads} threads, {made.platform}. The [records]({NAME}/) hold every number below, the
curves of each pair, seeds and configuration. Networks of one precision differ only in their seed; both precisions have
the same shape, batch normalisation behind every linear map, and integers 2p - 255 as inputs.

## Claims

Each value is the worst of all networks or pairs, not a mean. Errors in % of samples; midpoints at t = 1/2 on the
straight line.

| claim | measured | |
| --- | --- | --- |
{chr(10).join(_claims(records))}

## What the numbers say, and what not

- Matching by latents and signs lowers the error halfway between two binary networks several times over, and
  re-estimating normalisation statistics lowers it further in every treatment: both are needed.
- The standard form alone changes little: networks of the same training settings have like scales already, and the
  permutations stay.
- On the geodesic, with statistics interpolated, full-precision networks do worse than on the straight line; with
  statistics re-estimated, the two agree. That is against the paper's preference for geodesics. A likely reason, not
  tested here: inputs are not centred (background pixels are -255), and the geodesic keeps weights at unit norm while
  the means of their outputs are interpolated on the chord.
- Three seeds make three pairs that share networks: these are not independent measurements, and ± below is a spread.

{tables}"""


def _claims(records: Sequence[Record]) -> Iterable[str]:
    binary = [record for record in records if record.precision == "binary"]
    full = [record for record in records if record.precision == "full"]
    for name, chosen, limit in (("binary", binary, 0.03), ("full precision", full, 0.02)):
        worst = max(network.errors["test"] for record in chosen for network in record.networks)
        yield _claim(f"test error of every {name} network below {limit:.0%}", f"{worst:.2%}", worst < limit)
    befores: tuple[Treatment, ...] = ("as trained", "standard form")
    for before in befores:
        shares = [_midpoint(record, "matched") / _midpoint(record, before) for record in binary]
        claim = f"binary, train midpoint, statistics interpolated: matched at most half of {before}"
        yield _claim(claim, f"{max(shares):.2f} of it", max(shares) <= 0.5)
    worst = max(_midpoint(record, "matched", "re-estimated") for record in binary)
    yield _claim("binary, train midpoint, matched and re-estimated below 3%", f"{worst:.2%}", worst < 0.03)
    barriers = [
        curve.barrier for record in binary for curve in record.controls[0].curves if curve.treatment == "matched"
    ]
    claim = "binary, symmetric copy, matched: barrier exactly 0 on both splits"
    yield _claim(claim, f"{max(barriers):g}", set(barriers) == {0})


def _claim(claim: str, measured: str, holds: bool) -> str:
    return f"| {claim} | {measured} | {'holds' if holds else '**does not hold**'} |"


def _midpoint(record: Record, treatment: Treatment, statistics: Statistics = "interpolated") -> float:
    def wanted(curve: Curve) -> bool:
        kind = (curve.treatment, curve.statistics, curve.path, curve.split)
        return kind == (treatment, statistics, "linear", "train")

    return next(filter(wanted, record.curves)).midpoint_error


def figure(records: Sequence[Record]) -> bytes:
    """The error along the straight line, train samples, as a PNG."""
    (section,) = sections(records)
    chart = path_chart(section, "linear", "train")
    assert chart is not None, "records hold curves on train samples"
    return vl_convert.vegalite_to_png(chart.spec, scale=1.25)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options and write; 0 if all is well, 2 for what the user can mend."""
    parser = argparse.ArgumentParser(description="Write the results document of the MNIST run from its records.")
    parser.add_argument("run", type=Path, help="output folder of `compare-nets run`")
    parser.add_argument("--out", type=Path, required=True, help="folder of the document")
    options = parser.parse_args(arguments)

    def make() -> None:
        records = read_records([options.run])
        found = {record.precision for record in records}
        if found != {"binary", "full"} or {record.data.name for record in records} != {NAME}:
            names = ", ".join(sorted(f"{record.precision} on {record.data.name}" for record in records))
            raise studies.OptionError(
                f"{options.run}: expected records of binary and full-precision networks on {NAME}, as "
                f"`compare-nets run --data {NAME}` makes them, got {names}"
            )
        picture, text = figure(records), document(records)
        for record in records:
            seeds = "-".join(str(network.seed) for network in record.networks)
            write_record(record, options.out / NAME / f"{record.precision}-{seeds}.json")
        write_bytes(options.out / f"{NAME}.png", picture)
        write_text(options.out / f"{NAME}.md", text)

    return studies.told("results.py", make)


if __name__ == "__main__":
    sys.exit(main())
