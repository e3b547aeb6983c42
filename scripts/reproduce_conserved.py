"""What gradient flow conserves, measured: drift against step size, initial values, binary latents, speed and curvature.

usage: python scripts/reproduce_conserved.py RUN --out FOLDER
example: python scripts/reproduce_conserved.py runs/conserved --jobs 1 --out docs/results

Everything finished is kept in RUN: an interrupted measurement goes on. Writes OUT/conserved.md with its pictures, and
the records, OUT/conserved.json, for digits; OUT/conserved-DATA.* for other data.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
from conserved_tasks import FAMILIES, Job

import compare
from compare.data import DATA_SETS
from compare.errors import CompareError
from compare.progress import progress
from compare.report.conserved import document
from compare.report.conserved_charts import conserved_charts, pictures
from compare.runs import write_bytes, write_text
from compare.runs.conserved import Conserved, Piece, read_conserved, write_conserved
from compare.runs.files import check_writable, sole_writer
from compare.runs.provenance import command_line, provenance
from compare.runs.record import Provenance
from fullprecision.conserved import SCHEMES
from fullprecision.conserved.cases import CASES, CHANNELS, EPS, HIDDEN, INPUTS, OUTPUTS, PIXELS

TIME, RATES = 1.6, (0.008, 0.004, 0.002, 0.001)
RATES_ON_DATA = (0.05, 0.025, 0.0125, 0.00625)
EXPONENTS = (-1.4, -1.15, -0.9, -0.65, -0.4, -0.15, 0.1, 0.35, 0.6, 0.85, 1.1)
"""With Kaiming's weights the first five have Q > 0; below them the curvature at the start is too large for the step."""

ORBIT = {"rate": 0.01, "steps": 200, "target": 0.3, "most": 3000}
INPUT_NORM = 8.0
WIDTH = 32
INITIAL_SIZES = ((64, 32, 10), (10, 32, 64))


class ConservedScriptError(CompareError, ValueError):
    """Options that make no measurement, or records that are not there."""


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description="Measure what gradient flow conserves, in full precision and of binary networks' latents.",
        epilog="example: python scripts/reproduce_conserved.py runs/conserved --jobs 1 --out docs/results",
    )
    parser.add_argument("run", type=Path, help="folder of the measurement; an interrupted one goes on")
    parser.add_argument("--data", default="digits", choices=DATA_SETS, help="data set (default: digits, embedded)")
    parser.add_argument("--data-root", type=Path, help="folder of the data set's files")
    parser.add_argument("--seeds", type=int, default=5, help="problems of each kind, trainings (default: %(default)s)")
    parser.add_argument("--networks", type=int, default=10, help="whose orbits are descended (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=1000, help="networks for each scheme (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=500, help="of gradient descent (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="of Adam (default: %(default)s)")
    parser.add_argument("--time", type=float, default=4.0, help="of gradient descent on data (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=-1, help="processes (default: one for each core)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the document")
    parser.add_argument("--records", action="store_true", help="measure nothing: write from OUT's records")
    return parser.parse_args(arguments)


def configuration(options: argparse.Namespace) -> dict[str, Any]:
    """What determines the numbers.

    Raises:
        ConservedScriptError: For numbers that are too small.
    """
    least = {"seeds": 1, "networks": 1, "draws": 2, "samples": 20, "epochs": 1}
    for name, smallest in least.items():
        if (got := getattr(options, name)) < smallest:
            raise ConservedScriptError(f"--{name}: expected at least {smallest}, got {got}")
    if (
        not 0 < options.time < math.inf
        or abs(options.time / RATES_ON_DATA[0] - round(options.time / RATES_ON_DATA[0])) > 1e-9
    ):
        raise ConservedScriptError(f"--time: expected a positive multiple of {RATES_ON_DATA[0]}, got {options.time}")
    if options.jobs == 0:
        raise ConservedScriptError("--jobs: expected a number of processes, or -1 for one for each core, got 0")
    plain: dict[str, Any] = {name: getattr(options, name) for name in (*least, "time", "data")}
    return {
        **plain,
        "problem": {
            "inputs": INPUTS,
            "hidden": HIDDEN,
            "outputs": OUTPUTS,
            "eps": EPS,
            "pixels": list(PIXELS),
            "channels": CHANNELS,
        },
        "problem_time": TIME,
        "problem_rates": list(RATES),
        "rates": list(RATES_ON_DATA),
        "learning_rate": 3e-3,
        "hidden": WIDTH,
        "exponents": list(EXPONENTS),
        "input_norm": INPUT_NORM,
        "orbit": ORBIT,
        "initial_sizes": [list(sizes) for sizes in INITIAL_SIZES],
    }


def jobs(options: argparse.Namespace, settings: Mapping[str, Any], made: Provenance) -> Iterator[Job]:
    """All pieces."""
    seeds = range(options.seeds)
    wanted = [
        *(("laws", name, seed) for name in CASES for seed in seeds),
        *(("initials", name, 0) for name in SCHEMES),
        *((kind, name, seed) for kind in ("surrogates", "courses") for name in FAMILIES for seed in seeds),
        *(("orbits", "relu", seed) for seed in range(options.networks)),
    ]
    for kind, name, seed in wanted:
        yield Job(kind, name, seed, settings, options.data_root, options.run / "pieces", made)


def measured(options: argparse.Namespace) -> Conserved:
    """All of it, measured where it is not there yet.

    Raises:
        CompareError: For options that make no measurement, pieces of another one, or a descent that fails.
    """
    settings, made = configuration(options), provenance(threads=1, command=command_line())
    data = compare.load_data(options.data, root=options.data_root)
    if options.samples > (most := len(data.train.y)):
        raise ConservedScriptError(f"--samples: expected at most the {most} training samples, got {options.samples}")
    settings["fingerprint"] = data.fingerprint
    work = list(jobs(options, settings, made))
    check_writable(options.run / "lock")
    options.run.mkdir(parents=True, exist_ok=True)
    with sole_writer(options.run):
        left = [job for job in work if not job.is_done()]
        _say(f"{len(work) - len(left)} of {len(work)} pieces are there, {len(left)} to do")
        parallel = joblib.Parallel(n_jobs=options.jobs, return_as="generator_unordered")
        for _ in progress(parallel(joblib.delayed(job.run)() for job in left), "pieces", unit="piece", total=len(left)):
            pass
    pieces = tuple(read_conserved(Piece, job.file) for job in work)
    return Conserved(
        data=options.data, fingerprint=data.fingerprint, configuration=settings, provenance=made, pieces=pieces
    )


def written(options: argparse.Namespace, found: Conserved) -> Path:
    """The document, its pictures and its records.

    Raises:
        CompareError: If they cannot be made or written.
    """
    name, target = _name(options), Path(options.out / f"{_name(options)}.md")
    write_conserved(found, options.out / f"{name}.json")
    charts = conserved_charts(found)
    for key, content in pictures(charts).items():
        write_bytes(options.out / f"{name}-{key}.png", content)
    write_text(target, document(found, name, charts))
    return target


def _name(options: argparse.Namespace) -> str:
    return "conserved" if options.data == "digits" else f"conserved-{options.data}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is not there yet, then write the document; 0 if all is well, 2 for what the user can mend."""
    options = parsed(arguments)
    try:
        check_writable(options.out / f"{_name(options)}.md")
        kept = options.out / f"{_name(options)}.json"
        file = written(options, read_conserved(Conserved, kept) if options.records else measured(options))
    except CompareError as error:
        _say(f"reproduce_conserved.py: error: {error}")
        return 2
    except KeyboardInterrupt:
        _say(f"interrupted: what is finished is kept in {options.run}; the same command goes on from there")
        return 130
    _say(f"wrote {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
