"""Time the errors and losses of the networks on a path against the plain loop over them.

usage: python scripts/benchmark_barrier.py --data ROOT [--rounds N] [--samples N] --out FOLDER
       python scripts/benchmark_barrier.py --again --out FOLDER        (the document anew from its record)
example: OMP_NUM_THREADS=1 python scripts/benchmark_barrier.py --data data/mnist --out docs/results

The straight line between two MLPs 784-512-512-512-10, in full precision and binary, at 25 points on MNIST images. The
plain loop interpolates the parameters, calls the model on batches of 1,000, and counts. Both ways take turns within
each round. Writes FOLDER/barrier.json and FOLDER/barrier.md, made from it alone. One thread.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

import binarynets
import compare
import fullprecision
from compare.evaluation import Curve, re_estimated
from compare.evaluation.statistics import calibrator
from compare.family import Family
from compare.params import Params, call_in_place, parameters
from compare.runs import write_text
from compare.runs.provenance import processor, provenance

SIZES = (784, 512, 512, 512, 10)
POINTS = 25
BATCH = 1000
LIMITS = {"full": 0.65, "binary": 0.25}
FAMILIES = {"full": fullprecision.FAMILY, "binary": binarynets.FAMILY}
WAYS = ("plain loop", "error_curve")
STATISTICS = ("interpolated", "re-estimated")
CLOCKS = ("wall", "processor")

Timed = Callable[[], Curve]


@dataclass(frozen=True)
class Line:
    """What is evaluated.

    Attributes:
        family: The precision.
        model: The network.
        path: The straight line between two.
        split: Images to count on, and to re-estimate statistics on.
    """

    family: Family
    model: nn.Module
    path: compare.Path
    split: compare.Split


def line(family: Family, split: compare.Split) -> Line:
    """Two networks as they are initialised, with the statistics of data."""
    inputs, *hidden, outputs = SIZES
    ends = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = family.networks["mlp"](inputs, hidden, outputs).eval()
        ends.append(re_estimated(calibrator(model), parameters(model), split.calibration))
    graph = compare.trace(model, split.x[:16], family)
    return Line(family, model, compare.linear_path(graph, *ends), split)


def ts() -> list[float]:
    """Where on the path."""
    return [i / (POINTS - 1) for i in range(POINTS)]


@torch.no_grad()
def plain_loop(case: Line, how: Any) -> Curve:
    """One network after the other: interpolate, re-estimate if asked to, forward, count."""
    measuring = calibrator(case.model)
    split, errors, losses = case.split, [], []
    for t in ts():
        params: Params = case.path(t)
        if how == "re-estimated":
            params = re_estimated(measuring, params, split.calibration, batch=BATCH)
        wrong, loss = 0, 0.0
        for x, y in zip(torch.split(split.x, BATCH), torch.split(split.y, BATCH), strict=True):
            logits = call_in_place(case.model, params, x)
            wrong += int((logits.argmax(1) != y).sum())
            loss += float(F.cross_entropy(logits, y, reduction="sum"))
        errors.append(wrong / len(split))
        losses.append(loss / len(split))
    return Curve(tuple(ts()), tuple(errors), tuple(losses), len(split), how)


def fast(case: Line, how: Any) -> Curve:
    """The same by the library."""
    return compare.error_curve(
        case.model, case.path, case.split, ts(), statistics=how, evaluation=case.family.evaluation
    )


def check(case: Line, how: str) -> dict[str, float]:
    """How far the two differ: samples decided otherwise at any point, and the largest relative difference of a loss."""
    one, other = plain_loop(case, how), fast(case, how)
    return {
        "samples": max(abs(a - b) * len(case.split) for a, b in zip(one.errors, other.errors, strict=True)),
        "loss": max(abs(a - b) / a for a, b in zip(one.losses, other.losses, strict=True)),
    }


def flipping(case: Line) -> float | None:
    """Fraction of all bits that differ between the ends, None without bits."""
    latents = [name for name in case.path.a if case.family.name == "binary" and name.startswith("linear")]
    if not latents:
        return None
    differ = sum(int(((case.path.a[n] >= 0) != (case.path.b[n] >= 0)).sum()) for n in latents)
    return differ / sum(case.path.a[n].numel() for n in latents)


def measured(cases: Mapping[str, Line], rounds: int) -> dict[str, Any]:
    """Seconds by precision, kind of statistics, clock, way and round. Each round begins with the other way."""
    seconds: dict[str, Any] = {
        name: {how: {clock: {way: [] for way in WAYS} for clock in CLOCKS} for how in STATISTICS} for name in cases
    }
    for number in tqdm(range(rounds), desc="rounds", disable=None):
        for name, case in cases.items():
            for how in STATISTICS:
                for way in WAYS if number % 2 == 0 else WAYS[::-1]:
                    work = plain_loop if way == WAYS[0] else fast
                    began = time.perf_counter(), time.process_time()
                    work(case, how)
                    ended = time.perf_counter(), time.process_time()
                    for clock, start, end in zip(CLOCKS, began, ended, strict=True):
                        seconds[name][how][clock][way].append(end - start)
    return seconds


def ratios(seconds: Mapping[str, list[float]]) -> list[float]:
    """Seconds of the library in units of those of the plain loop, by round."""
    return [b / a for a, b in zip(*(seconds[way] for way in WAYS), strict=True)]


def document(record: dict[str, Any]) -> str:
    """The document, from the record alone."""
    made, versions = record["provenance"], record["versions"]
    shown = ", ".join(f"{name} {version}" for name, version in versions.items())
    sizes = "-".join(map(str, record["sizes"]))
    lines = [
        "# What the evaluation of a path costs",
        "",
        f"Made by\n\n```sh\n{made['command']}\n```\n\nat revision {made['revision']}, with {shown}, Python "
        f"{made['python']}, one thread, {made['platform']}, {record['processor']}.",
        "",
        f"The straight line between two MLPs {sizes} at {record['points']} points, errors and losses on "
        f"{record['samples']:,} MNIST training images, in each precision. The plain loop interpolates the parameters, "
        f"calls the model on batches of {record['batch']:,} and counts; with statistics re-estimated it measures them "
        f"at each point on {record['calibration']:,} training images first. `compare.error_curve` multiplies a first "
        "layer of full precision with both ends' weights once and mixes the products at each point; binary perceptrons "
        "are evaluated in integer form, with the first layer's sums changed by the bits that flip from point to point. "
        f"Networks are as initialised, so {record['differing']:.1%} of the binary bits differ between the ends, more "
        "than between trained and matched networks; the time in full precision depends on no weight.",
        "",
        f"Seconds on the wall clock: the median of {record['rounds']} rounds, least and most in brackets (record: "
        "[barrier.json](barrier.json)). Both ways take turns within a round; ratios are taken round by round. Where "
        "other work shares the machine, the ratio of processor time varies less.",
        "",
        f"| precision | statistics | {' | '.join(WAYS)} | ratio | ratio of processor time |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        *_rows(record["seconds"]),
        "",
        *_findings(record),
    ]
    return "\n".join(lines) + "\n"


def _rows(seconds: Mapping[str, Any]) -> Iterator[str]:
    for name, kinds in seconds.items():
        for how, clocks in kinds.items():
            cells = [_cell(clocks["wall"][way], 2) for way in WAYS]
            cells += [_cell(ratios(clocks[clock]), 3) for clock in CLOCKS]
            yield f"| {name} | {how} | {' | '.join(cells)} |"


def _cell(values: list[float], digits: int) -> str:
    middle, least, most = (f"{number:.{digits}f}" for number in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({least} to {most})"


def _findings(record: Mapping[str, Any]) -> Iterator[str]:
    for name, limit in LIMITS.items():
        found = statistics.median(ratios(record["seconds"][name]["interpolated"]["wall"]))
        verdict = "within" if found <= limit else "above"
        yield f"- {name}, interpolated: {found:.3f} of the plain loop's time, {verdict} the {limit} that is the aim."
    for name, kinds in record["differences"].items():
        for how, found in kinds.items():
            counted = (
                f"at some point {found['samples']:.0f} of {record['samples']:,} samples counted otherwise than"
                if found["samples"]
                else "every sample counted as"
            )
            yield f"- {name}, {how}: {counted} by the plain loop, losses equal to a relative {found['loss']:.1g}."


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    words = [f" --{name} {getattr(arguments, name)}" for name, usual in _USUAL.items() if
             getattr(arguments, name) != usual]  # fmt: skip
    # Where the data lies is the reader's own.
    command = f"OMP_NUM_THREADS=1 python scripts/benchmark_barrier.py --data ROOT{''.join(words)} --out {arguments.out}"
    split = compare.load_data("mnist", root=arguments.data).train.subset(arguments.samples)
    cases = {name: line(family, split) for name, family in FAMILIES.items()}
    # Before anything is timed, so that kernels are compiled.
    differences = {name: {how: check(case, how) for how in STATISTICS} for name, case in cases.items()}
    return {
        "provenance": provenance(threads=1, command=command).model_dump(mode="json"),
        "processor": processor(),
        "versions": {name: metadata.version(name) for name in ("torch", "numba", "numpy")},
        "sizes": SIZES,
        "points": POINTS,
        "batch": BATCH,
        "samples": len(split),
        "calibration": len(split.calibration),
        "differing": flipping(cases["binary"]),
        "rounds": arguments.rounds,
        "differences": differences,
        "seconds": measured(cases, arguments.rounds),
    }


_USUAL = {"rounds": 5, "samples": 10_000}


def main() -> None:
    """Measure, or read the record, and write the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the MNIST files")
    parser.add_argument("--rounds", type=int, default=_USUAL["rounds"], help="default %(default)s")
    parser.add_argument("--samples", type=int, default=_USUAL["samples"], help="images (default %(default)s)")
    parser.add_argument("--again", action="store_true", help="write the document anew from the record")
    parser.add_argument("--out", type=Path, required=True, help="folder of barrier.md and barrier.json")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds: expected 1 or more, got {arguments.rounds}")
    if arguments.samples < 1000:
        parser.error(f"--samples: expected 1000 or more, got {arguments.samples}")
    kept = arguments.out / "barrier.json"
    if arguments.again:
        if not kept.is_file():
            parser.error(f"--again: expected the record {kept}, and there is none: measure first")
        record = json.loads(kept.read_text(encoding="utf-8"))
    else:
        if arguments.data is None:
            parser.error("--data: expected the folder of the MNIST files, as compare.load_data takes it")
        record = _measure(arguments)
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_text(kept, json.dumps(record, indent=1) + "\n")
    write_text(arguments.out / "barrier.md", document(record))


if __name__ == "__main__":
    main()
