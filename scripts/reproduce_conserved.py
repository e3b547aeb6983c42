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
from typing import Any

import studies
from conserved_tasks import FAMILIES, Job

import compare
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


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = studies.parser(
        "Measure what gradient flow conserves, in full precision and of binary networks' latents.",
        "reproduce_conserved.py runs/conserved --jobs 1 --out docs/results",
        folder="folder of the measurement; an interrupted one goes on",
        data="digits",
    )
    parser.add_argument("--seeds", type=int, default=5, help="problems of each kind, trainings (default: %(default)s)")
    parser.add_argument("--networks", type=int, default=10, help="whose orbits are descended (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=1000, help="networks for each scheme (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=500, help="of gradient descent (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="of Adam (default: %(default)s)")
    parser.add_argument("--time", type=float, default=4.0, help="of gradient descent on data (default: %(default)s)")
    return studies.parsed(parser, arguments, records="measure nothing: write from OUT's records")


def configuration(options: argparse.Namespace) -> dict[str, Any]:
    """What determines the numbers.

    Raises:
        OptionError: For numbers that are too small.
    """
    least = {"seeds": 1, "networks": 1, "draws": 2, "samples": 20, "epochs": 1}
    studies.check(options, least)
    if (
        not 0 < options.time < math.inf
        or abs(options.time / RATES_ON_DATA[0] - round(options.time / RATES_ON_DATA[0])) > 1e-9
    ):
        raise studies.OptionError(f"--time: expected a positive multiple of {RATES_ON_DATA[0]}, got {options.time}")
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
        raise studies.OptionError(f"--samples: expected at most the {most} training samples, got {options.samples}")
    settings["fingerprint"] = data.fingerprint
    work = list(jobs(options, settings, made))
    check_writable(options.run / "lock")
    options.run.mkdir(parents=True, exist_ok=True)
    with sole_writer(options.run):
        left = [job for job in work if not job.is_done()]
        studies.say(f"{len(work) - len(left)} of {len(work)} pieces are there, {len(left)} to do")
        studies.do_all([job.run for job in left], options.jobs, "pieces")
    pieces = tuple(read_conserved(Piece, job.file) for job in work)
    return Conserved(
        data=options.data, fingerprint=data.fingerprint, configuration=settings, provenance=made, pieces=pieces
    )


def written(options: argparse.Namespace, found: Conserved) -> None:
    """The document, its pictures and its records.

    Raises:
        CompareError: If they cannot be made or written.
    """
    name = _name(options)
    write_conserved(found, options.out / f"{name}.json")
    charts = conserved_charts(found)
    for key, content in pictures(charts).items():
        write_bytes(options.out / f"{name}-{key}.png", content)
    write_text(options.out / f"{name}.md", document(found, name, charts))


def _name(options: argparse.Namespace) -> str:
    return "conserved" if options.data == "digits" else f"conserved-{options.data}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is not there yet, then write the document; 0 if all is well, 2 for what the user can mend."""
    options = parsed(arguments)

    def make() -> None:
        kept = options.out / f"{_name(options)}.json"
        written(options, read_conserved(Conserved, kept) if options.records else measured(options))

    return studies.finished("reproduce_conserved.py", options, _name(options), make)


if __name__ == "__main__":
    sys.exit(main())
