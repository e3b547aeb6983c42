"""The exact landscape of two trained networks, and what it costs: every network between them, every flip of every bit.

usage: python scripts/exact.py RUN --data-root FOLDER --out FOLDER
       python scripts/exact.py --again --out FOLDER          (the document anew from its record)
example: compare-nets run --data mnist --data-root data --hidden 512,512 --precisions binary --out runs/mnist
         python scripts/exact.py runs/mnist --data-root data --out docs/results

RUN is the folder of a run; its binary networks of the first two seeds are matched. Writes FOLDER/exact.json (every
number) and FOLDER/exact.md, which is made from it alone. Costs are ratios to one dense float32 evaluation of the same
samples by torch, measured in turn with it, one thread unless stated. The costs need a quiet machine.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import studies
import torch
from torch import Tensor, nn

import binarynets
from binarynets.integer.multiply import fastest
from binarynets.landscape.exact import BUDGET
from binarynets.landscape.greedy import CANDIDATES, ROUNDS
from binarynets.landscape.measure import KNOTS, landscape
from compare.data import Split, load_data
from compare.experiment import build
from compare.geometry import linear_path
from compare.params import Params, call
from compare.runs import read_configuration, write_text
from compare.runs.files import check_writable
from compare.runs.provenance import processor, provenance
from compare.symmetry import Graph, match, standard_form, trace
from compare.training.checkpoint import read_checkpoint

SAMPLES = 10_000
REPEATS = 5
STEPS = (60, 120, 240, 480)
TARGETS = (
    ("path", "exact path, units", 60, True),
    ("path", "exact path, units, the aim", 25, True),
    ("neighbourhood", "neighbourhood, units", 60, True),
    ("two_threads_over_one", "two threads over one", 1.8, False),
    ("float32_over_integer", "integer over float32 evaluation", 6, False),
)


def measured(run: Path, data_root: Path | None, command: str) -> dict[str, Any]:
    """Everything the document tells.

    Raises:
        CompareError: If the run or its data cannot be read, or its binary networks have no exact landscape.
    """
    configuration = read_configuration(run / "configuration.toml")
    if configuration.architecture.network != "mlp":
        raise studies.OptionError(f"{run}: expected a run of perceptrons, got {configuration.architecture.network!r}")
    torch.set_num_threads(1)
    data = load_data(configuration.data, data_root)
    seeds = configuration.seeds[:2]
    model = build(binarynets.FAMILY, configuration, data, seed=seeds[0]).eval()
    ends = [read_checkpoint(run / "binary" / f"seed-{seed}").params for seed in seeds]
    graph = trace(model, data.train.x[:16], binarynets.FAMILY, at=ends)
    a, b = (standard_form(graph, params, invariant="loss") for params in ends)
    b = match(graph, a, b, seed=seeds[0]).params
    train, test = data.train.subset(SAMPLES), data.test.subset(SAMPLES)
    costs = _costs(graph, model, a, b, train)
    torch.set_num_threads(2)
    found, notes = landscape(graph, model, a, b, {"train": train, "test": test}, seed=seeds[0], describe="landscape")
    if found is None:
        raise studies.OptionError(f"{run}: its binary networks have no exact landscape: {'; '.join(notes)}")
    changes = binarynets.flip_neighbourhood(model, a, test.x, test.y)
    return {
        "provenance": provenance(threads=1, command=command).model_dump(mode="json"),
        "processor": processor(),
        "model": " - ".join(str(len(w)) for w in [model[1].weight.T, *(p for p in model.parameters() if p.ndim > 1)]),
        "data": configuration.data,
        "configuration": configuration.model_dump(mode="json", exclude_none=True),
        "knots": KNOTS,
        "seeds": list(seeds),
        "bits": sum(bits.numel() for bits in changes.values()),
        "greedy": {"looks": ROUNDS, "candidates": CANDIDATES, "samples": BUDGET},
        "landscape": found.model_dump(mode="json"),
        "critical": [list(map(str, bit)) for bit in binarynets.most_critical(changes, 5)],
        "steps": _steps(graph, model, a, b, train),
        "costs": costs,
    }


def _first(split: Split, count: int) -> tuple[Tensor, Tensor]:
    return split.x[:count], split.y[:count]


def _steps(graph: Graph, model: nn.Module, a: Params, b: Params, split: Split) -> list[dict[str, Any]]:
    """What the fineness of the threshold grid changes, on the latent line."""
    found = []
    for steps in STEPS:
        path = binarynets.exact_path(model, a, b, split.x, split.y, steps=steps, graph=graph)
        found.append({"steps": steps, "supremum": path.supremum, "missed": path.missed(), "integral": path.integral})
    return found


def _costs(graph: Graph, model: nn.Module, a: Params, b: Params, split: Split) -> dict[str, Any]:
    network = binarynets.to_integer(model, b)
    x, y = split.x, split.y
    narrow = x.to(torch.int16)
    thousand = _first(split, 1000)
    path = binarynets.exact_path(model, a, b, x, y, graph=graph)  # compiles

    def dense(x: Tensor) -> None:
        with torch.no_grad():
            for part in torch.split(x, 2000):
                call(model, b, part).argmax(1)

    def follow(count: int, threads: int = 1) -> Callable[[], object]:
        return lambda: binarynets.exact_path(model, a, b, x[:count], y[:count], graph=graph, threads=threads)

    unit, small = (lambda: dense(x)), (lambda: dense(thousand[0]))
    half, quarter = (linear_path(graph, a, b)(t) for t in (0.5, 0.25))
    return {
        "flips": len(path.t),
        "networks": len(path.event_errors),
        "unit_seconds": statistics.median(_times(unit)),
        "path": _ratios(follow(len(x)), unit),
        "path_half_samples": _ratios(follow(len(x) // 2), unit),
        "path_quarter_samples": _ratios(follow(len(x) // 4), unit),
        "half_flips": len(binarynets.exact_path(model, a, half, x[:64], y[:64], graph=graph).t),
        "quarter_flips": len(binarynets.exact_path(model, a, quarter, x[:64], y[:64], graph=graph).t),
        "path_half_flips": _ratios(lambda: binarynets.exact_path(model, a, half, x, y, graph=graph, threads=1), unit),
        "path_quarter_flips": _ratios(
            lambda: binarynets.exact_path(model, a, quarter, x, y, graph=graph, threads=1), unit
        ),
        "two_threads_over_one": _ratios(follow(len(x)), follow(len(x), threads=2)),
        "neighbourhood": _ratios(lambda: binarynets.flip_neighbourhood(model, a, *thousand, threads=1), small),
        "neighbourhood_2000": _ratios(
            lambda: binarynets.flip_neighbourhood(model, a, *_first(split, 2000), threads=1), small
        ),
        "neighbourhood_4000": _ratios(
            lambda: binarynets.flip_neighbourhood(model, a, *_first(split, 4000), threads=1), small
        ),
        "float32_over_integer": _ratios(unit, lambda: network.sums(x)),
        "float32_over_integer_int16": _ratios(unit, lambda: network.sums(narrow)),
        "method": fastest("cpu"),
    }


def _times(work: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    work()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return found


def _ratios(work: Callable[[], object], unit: Callable[[], object]) -> dict[str, float]:
    """How many units a piece of work takes: median of ratios of neighbouring runs, and their extremes."""
    work(), unit()
    ratios = [_times_once(work) / _times_once(unit) for _ in range(REPEATS)]
    return {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios), "runs": len(ratios)}


def _times_once(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def document(record: dict[str, Any]) -> str:
    """The page, made from the record alone."""
    return "\n".join([*_head(record), *_paths(record), *_fineness(record), *_around(record), *_cost(record), ""])


def _head(record: dict[str, Any]) -> Iterator[str]:
    made, seeds = record["provenance"], record["seeds"]
    yield f"# The exact landscape between two {record['data'].upper()} networks"
    yield ""
    yield (
        f"Two binary networks {record['model']} (seeds {seeds[0]} and {seeds[1]}), the second matched to the first. "
        f"Made by `{made['command']}` at revision {made['revision']} on {record['processor']}; every number is in "
        "[exact.json](exact.json), with the configuration of the run that trained them. Statistics are re-estimated at "
        f"{record['knots']} knots."
    )
    yield ""


def _paths(record: dict[str, Any]) -> Iterator[str]:
    curves, greedy = record["landscape"]["curves"], record["greedy"]
    first = curves[0]
    yield "## What the usual grid misses"
    yield ""
    yield (
        f"{first['flips']:,} bits differ. Each path flips every one of them once, and all of its networks, "
        f"{first['networks']:,} on the first, are counted on {first['samples']:,} samples a split. *Highest*: the "
        "largest error of any network on the path; *grid*: the largest at 25 equally spaced points; *missed*: the "
        "difference; *mean*: the integral of the error over t. All orders flip the same bits at the same times. The "
        f"greedy order looks {greedy['looks']} times at the effect of all flips on {greedy['samples']} training "
        f"samples; after each look it draws {greedy['candidates']} candidates for each flip that is due, and takes the "
        "best."
    )
    yield ""
    names = "ends (%)", "highest (%)", "at t", "grid (%)", "missed (points)", "missed (samples)", "mean (%)"
    yield f"| statistics | order | split | {' | '.join(names)} |"
    yield "| --- | --- | --- |" + " ---: |" * len(names)
    for c in curves:
        cells = [
            " and ".join(f"{100 * end:.2f}" for end in c["ends"]),
            f"{100 * c['supremum']:.2f}",
            f"{c['supremum_at']:.3f}",
            f"{100 * c['grid_supremum']:.2f}",
            f"{100 * c['missed']:.2f}",
            str(round(c["missed"] * c["samples"])),
            f"{100 * c['integral']:.2f}",
        ]
        yield f"| {c['statistics']} | {c['order']} | {c['split']} | {' | '.join(cells)} |"
    yield ""
    yield from _reading(curves)


def _reading(curves: Sequence[dict[str, Any]]) -> Iterator[str]:
    latent = [c for c in curves if c["order"] == "latent-line"]
    most = max(c["missed"] for c in latent)
    relative = max(c["missed"] / c["supremum"] for c in latent)
    yield (
        f"On the latent line the 25 points miss at most {100 * most:.2f} percentage points, and at most "
        f"{100 * relative:.1f} % of the highest error."
    )
    yield ""
    for kind, split in sorted({(c["statistics"], c["split"]) for c in curves}):
        own = [c for c in curves if (c["statistics"], c["split"]) == (kind, split)]
        listed = sorted(own, key=lambda c: float(c["supremum"]))
        values = ", ".join(f"{c['order']} {100 * c['supremum']:.2f} %" for c in listed)
        yield f"- {kind}, {split}: highest error by order, from the lowest: {values}."
    yield ""


def _fineness(record: dict[str, Any]) -> Iterator[str]:
    yield "## How fine the threshold grid is"
    yield ""
    yield (
        "Thresholds and gains stand still around each point of a grid of t (240 intervals unless told, the 25 points "
        "among them). Latent line, interpolated statistics, training samples:"
    )
    yield ""
    yield "| intervals | highest (samples) | missed by 25 points (samples) | mean error (%) |"
    yield "| ---: | ---: | ---: | ---: |"
    for row in record["steps"]:
        yield f"| {row['steps']} | {row['supremum']} | {row['missed']} | {100 * row['integral']:.3f} |"
    yield ""
    fine = [row["supremum"] for row in record["steps"] if row["steps"] >= 120]
    yield (
        f"From 120 intervals on the highest error lies between {min(fine)} and {max(fine)} samples: so well is it "
        "known. Bits are followed exactly; how thresholds move between points of the grid is a choice."
    )
    yield ""


def _around(record: dict[str, Any]) -> Iterator[str]:
    yield "## Every flip of every bit"
    yield ""
    for found in record["landscape"]["neighbourhoods"]:
        yield (
            f"The first network ({100 * found['error']:.2f} % of {found['samples']:,} {found['split']} samples wrong) "
            f"and all {record['bits']:,} networks that differ from it in one bit, each counted."
        )
        yield ""
        names = "bits", "no change (%)", "more errors (%)", "fewer errors (%)", "mean (samples)", "worst (samples)"
        yield f"| weight | {' | '.join(names)} |"
        yield "| --- |" + " ---: |" * len(names)
        for layer in found["layers"]:
            shares = (f"{100 * layer[key]:.3f}" for key in ("unchanging", "raising", "lowering"))
            mean, worst = (found["samples"] * layer[key] for key in ("mean", "worst"))
            yield (f"| {layer['weight']} | {layer['bits']:,} | {' | '.join(shares)} | {mean:+.5f} | {worst:+.0f} |")
        yield ""
    bits = "; ".join(f"{name} at {place}: {change} samples" for name, place, change in record["critical"])
    yield f"The most critical bits on the test samples: {bits}."
    yield ""
    curves = record["landscape"]["robustness"]
    yield (
        f"Error (%) on {curves[0]['samples']:,} {curves[0]['split']} samples when a fraction of bits is flipped at "
        f"random, mean and standard error over {curves[0]['draws']} draws:"
    )
    yield ""
    yield "| flipped in | " + " | ".join(f"{100 * p:g} %" for p in curves[0]["fractions"]) + " |"
    yield "| --- |" + " ---: |" * len(curves[0]["fractions"])
    for curve in curves:
        pairs = zip(curve["errors"], curve["standard_errors"], strict=True)
        cells = " | ".join(f"{100 * mean:.2f} ± {100 * error:.2f}" for mean, error in pairs)
        yield f"| {curve['weight'] or 'all weights'} | {cells} |"
    yield ""


def _cost(record: dict[str, Any]) -> Iterator[str]:
    costs, bits = record["costs"], f"all {record['bits']:,} bits"
    yield "## What it costs"
    yield ""
    yield (
        "The unit is one dense float32 evaluation of the same network and samples by torch, "
        f"{costs['unit_seconds']:.3f} s for {SAMPLES:,} samples, one thread. Ratios of neighbouring measurements "
        f"within one run: median (least to most) of {costs['path']['runs']}, compiling left out. "
        f"{costs['flips']:,} flips, {costs['networks']:,} networks."
    )
    yield ""
    yield "| what | units |"
    yield "| --- | ---: |"
    for key, label in {
        "path": f"exact path, {SAMPLES:,} samples, all flips",
        "path_half_samples": f"exact path, {SAMPLES // 2:,} samples, all flips",
        "path_quarter_samples": f"exact path, {SAMPLES // 4:,} samples, all flips",
        "path_half_flips": f"exact path to t = 1/2, {SAMPLES:,} samples, {costs['half_flips']:,} flips",
        "path_quarter_flips": f"exact path to t = 1/4, {SAMPLES:,} samples, {costs['quarter_flips']:,} flips",
    }.items():
        yield f"| {label} | {_shown(costs[key])} |"
    yield ""
    yield "The unit of neighbourhoods is the evaluation of 1,000 samples:"
    yield ""
    yield "| what | units |"
    yield "| --- | ---: |"
    for key, label in (("neighbourhood", "1,000"), ("neighbourhood_2000", "2,000"), ("neighbourhood_4000", "4,000")):
        yield f"| {bits}, {label} samples | {_shown(costs[key])} |"
    yield ""
    yield "| how many times as fast | ratio |"
    yield "| --- | ---: |"
    yield f"| exact path by two threads as by one | {_shown(costs['two_threads_over_one'])} |"
    integer = f"integer evaluation ({costs['method']}) as float32"
    yield f"| {integer}, inputs in float32 | {_shown(costs['float32_over_integer'])} |"
    yield f"| {integer}, inputs in int16 | {_shown(costs['float32_over_integer_int16'])} |"
    yield ""
    yield "What was aimed at, and whether the median reaches it:"
    yield ""
    yield "| figure | asked | median | reached |"
    yield "| --- | ---: | ---: | --- |"
    for key, label, asked, at_most in TARGETS:
        median = costs[key]["median"]
        reached = median <= asked if at_most else median >= asked
        bound = f"{'at most' if at_most else 'at least'} {asked:g}"
        yield f"| {label} | {bound} | {median:.2f} | {'yes' if reached else 'no'} |"


def _shown(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"


def _kept_document(kept: Path) -> str:
    try:
        return document(json.loads(kept.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise studies.OptionError(
            f"{kept} is no record of this script ({type(error).__name__}: {error}): measure anew"
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, or read the record, and write the document; 0 if all is well, 2 for what the user can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="folder of a run with binary networks of at least two seeds")
    parser.add_argument("--data-root", type=Path, help="folder of the data set's files")
    parser.add_argument("--again", action="store_true", help="write the document anew from the record")
    parser.add_argument("--out", type=Path, required=True, help="folder of exact.md and exact.json")
    options = parser.parse_args(arguments)
    kept = options.out / "exact.json"
    if not options.again and options.run is None:
        parser.error("expected the folder of a run, or --again")
    if options.again and not kept.is_file():
        parser.error(f"--again: expected the record {kept}, which a measurement writes")

    def make() -> None:
        check_writable(kept)
        if not options.again:
            root = f" --data-root {options.data_root}" if options.data_root else ""
            command = f"OMP_NUM_THREADS=1 python scripts/exact.py {options.run}{root} --out {options.out}"
            write_text(kept, json.dumps(measured(options.run, options.data_root, command), indent=1) + "\n")
        write_text(options.out / "exact.md", _kept_document(kept))

    return studies.told("exact.py", make)


if __name__ == "__main__":
    sys.exit(main())
