"""Time the same analysis of one network in Brevitas layers, through the adapter, and in binarynets layers.

usage: python scripts/benchmark_adapter.py [--rounds N] [--samples N] --out FOLDER
       python scripts/benchmark_adapter.py --again --out FOLDER        (the document anew from its record)
example: OMP_NUM_THREADS=1 python scripts/benchmark_adapter.py --out docs/results

An MLP 784-512-512-10, the same parameters in each form: binarynets layers, Brevitas layers of scale 1 and of Brevitas's
default scale 0.1, and Brevitas's own forward in the place of the adapter's. Tracing, a curve with statistics
interpolated and re-estimated, and matching take turns within each round. Writes FOLDER/adapter.json and
FOLDER/adapter.md, made from it alone. One thread.
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
from brevitas.quant import SignedBinaryWeightPerTensorConst
from torch import nn
from tqdm import tqdm

import binarynets
import compare
from binarynets.brevitas import FAMILY, from_brevitas, from_brevitas_params, plain
from binarynets.brevitas.family import parts
from compare import networks
from compare.family import Family
from compare.params import Params, parameters
from compare.runs import write_text
from compare.runs.provenance import processor, provenance

SIZES = (784, 512, 512, 10)
POINTS = 25
LIMIT = 1.3
OWN, UNIT, TENTH, THEIRS = (
    "binarynets layers",
    "Brevitas layers, scale 1",
    "Brevitas layers, scale 0.1",
    "Brevitas's own forward, scale 1",
)
STEPS = ("trace", "curve, interpolated", "curve, re-estimated", "match")

Call = Callable[[], Any]


@dataclass(frozen=True)
class Form:
    """One network in one kind of layers.

    Attributes:
        family: How it is read.
        model: What a user has.
        evaluated: What is evaluated along a path.
        ends: Two sets of parameters.
    """

    family: Family
    model: nn.Module
    evaluated: nn.Module
    ends: tuple[Params, Params]


def samples(count: int) -> compare.Split:
    """Random images of +1 and -1 with random labels; how long a network takes does not depend on them."""
    generator = torch.Generator().manual_seed(0)

    def images() -> torch.Tensor:
        return torch.randint(0, 2, (count, 1, 28, 28), generator=generator).float() * 2 - 1

    return compare.Split(images(), torch.randint(0, 10, (count,), generator=generator), images())


def forms(split: compare.Split) -> dict[str, Form]:
    """The network in each kind of layers, the same two sets of parameters in all."""
    inputs, *hidden, outputs = SIZES
    torch.manual_seed(0)
    unit = FAMILY.networks["mlp"](inputs, hidden, outputs)
    activation = next(module for module in unit.modules() if type(module).__name__ == "QuantIdentity")
    tenth = networks.mlp(
        parts({"weight_quant": SignedBinaryWeightPerTensorConst}, lambda: activation), inputs, hidden, outputs
    )
    own = from_brevitas(unit).eval()
    found: dict[str, Form] = {}
    for name, model in ((UNIT, unit), (TENTH, tenth)):
        ends = tuple(drawn(model, seed, split) for seed in (0, 1))
        found[name] = Form(FAMILY, model.eval(), plain(model, split.x[:16]), (ends[0], ends[1]))
    a, b = (from_brevitas_params(unit, end) for end in found[UNIT].ends)
    found[OWN] = Form(binarynets.FAMILY, own, own, (a, b))
    found[THEIRS] = Form(FAMILY, unit, unit, found[UNIT].ends)
    return {name: found[name] for name in (OWN, UNIT, TENTH, THEIRS)}


def drawn(model: nn.Module, seed: int, split: compare.Split) -> Params:
    """Parameters with random latents, gains and offsets, and the statistics of data."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = torch.rand(parameter.shape, generator=generator)
            # Within the scale of either, so that no clamp of a quantiser changes a latent.
            parameter.copy_(0.2 * spread - 0.1 if parameter.ndim > 1 else spread + (0.5 if "weight" in name else -0.5))
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
        kept = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0  # the data's own statistics, nothing of those that it was made with
        model.train()(split.calibration[:1000])
        for norm, momentum in zip(norms, kept, strict=True):
            norm.momentum = momentum
    return {name: tensor.clone() for name, tensor in parameters(model.eval()).items()}


def calls(form: Form, split: compare.Split) -> dict[str, Call]:
    """The steps of an analysis, each on its own."""
    graph = compare.trace(form.model, split.x[:16], form.family)
    a, b = (compare.standard_form(graph, end) for end in form.ends)
    path = compare.linear_path(graph, *form.ends)
    ts = [i / (POINTS - 1) for i in range(POINTS)]

    def curve(how: Any) -> Call:
        return lambda: compare.error_curve(form.evaluated, path, split, ts, statistics=how)

    return {
        "trace": lambda: compare.trace(form.model, split.x[:16], form.family),
        "curve, interpolated": curve("interpolated"),
        "curve, re-estimated": curve("re-estimated"),
        "match": lambda: compare.match(graph, a, b),
    }


def check(found: Mapping[str, Mapping[str, Call]]) -> None:
    """The same numbers in each form, or the times would compare different things."""
    wanted = found[OWN]["curve, interpolated"]().errors
    for name in (UNIT, THEIRS):
        if found[name]["curve, interpolated"]().errors != wanted:
            raise SystemExit(f"{name}: another curve than with {OWN}")
    scaled = found[TENTH]["curve, interpolated"]().errors
    if max(abs(ours - theirs) for ours, theirs in zip(wanted, scaled, strict=True)) > 0.005:
        raise SystemExit(f"{TENTH}: a curve that differs by more than rounding from that with {OWN}")
    objective = found[OWN]["match"]().objective
    if found[UNIT]["match"]().objective != objective:
        raise SystemExit(f"{UNIT}: another match than with {OWN}")


def measured(found: Mapping[str, Mapping[str, Call]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each step in each form, by round. Each round begins with another form."""
    seconds: dict[str, dict[str, list[float]]] = {name: {step: [] for step in steps} for name, steps in found.items()}
    for number in tqdm(range(rounds), desc="rounds", disable=None):
        for step in STEPS:
            having = [name for name in found if step in found[name]]
            for place in range(len(having)):
                name = having[(place + number) % len(having)]
                began = time.perf_counter()
                found[name][step]()
                seconds[name][step].append(time.perf_counter() - began)
    return seconds


def ratios(seconds: Mapping[str, Mapping[str, list[float]]], name: str, step: str | None = None) -> list[float]:
    """Seconds of a form in units of those with binarynets layers, by round; of all steps together without ``step``."""
    steps = STEPS if step is None else (step,)
    ours, theirs = ([sum(values) for values in zip(*(seconds[n][s] for s in steps), strict=True)] for n in (OWN, name))
    return [b / a for a, b in zip(ours, theirs, strict=True)]


def document(record: dict[str, Any]) -> str:
    """The document, from the record alone."""
    made, versions, seconds = record["provenance"], record["versions"], record["seconds"]
    shown = ", ".join(f"{name} {version}" for name, version in versions.items())
    sizes, rounds = "-".join(map(str, record["sizes"])), record["rounds"]
    parts_ = [
        "# What an analysis through the adapter costs",
        "",
        f"Made by\n\n```sh\n{made['command']}\n```\n\nat revision {made['revision']}, with {shown}, Python "
        f"{made['python']}, one thread, {made['platform']}, {record['processor']}.",
        "",
        f"A binary MLP {sizes} with the same parameters in each kind of layers. Seconds of a step: the median of "
        f"{rounds} rounds with the least and the most in brackets (record: [adapter.json](adapter.json)). All forms "
        "take turns within a round, another one first in each. Tracing begins with the model that a user has, so it "
        f"contains the reading of Brevitas layers. Curves have {record['points']} points and {record['samples']:,} "
        "samples, and as many to re-estimate statistics on. Before anything is timed, curve and match of scale 1 were "
        "found equal to those with binarynets layers, number by number, and the curve of scale 0.1 to half a "
        "percentage point (rounding turns units whose sum lies on a threshold).",
        "",
        f"| step | {' | '.join(seconds)} |",
        f"| --- |{' ---: |' * len(seconds)}",
        *(f"| {step} | {' | '.join(_cell(seconds[n].get(step)) for n in seconds)} |" for step in STEPS),
        "",
        f"Ratio to {OWN}, round by round:",
        "",
        f"| step | {' | '.join(name for name in seconds if name != OWN)} |",
        f"| --- |{' ---: |' * (len(seconds) - 1)}",
        *_ratio_rows(seconds),
        "",
        *_findings(seconds),
    ]
    return "\n".join(parts_) + "\n"


def _cell(values: list[float] | None) -> str:
    if values is None:
        return "-"
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _ratio_rows(seconds: Mapping[str, Mapping[str, list[float]]]) -> Iterator[str]:
    for step in (*STEPS, None):
        cells = []
        for name in seconds:
            if name != OWN:
                complete = step in seconds[name] or (step is None and set(seconds[name]) == set(STEPS))
                cells.append(_cell_of_ratio(ratios(seconds, name, step)) if complete else "-")
        yield f"| {step or 'all together'} | {' | '.join(cells)} |"


def _cell_of_ratio(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _findings(seconds: Mapping[str, Mapping[str, list[float]]]) -> Iterator[str]:
    for name in (UNIT, TENTH):
        whole = statistics.median(ratios(seconds, name))
        over = [step for step in STEPS if statistics.median(ratios(seconds, name, step)) > LIMIT]
        verdict = "within" if whole <= LIMIT else "above"
        single = f"above it alone: {', '.join(over)}" if over else "so is each step alone"
        yield f"- {name}: {whole:.2f} times, {verdict} the {LIMIT} that is the aim; {single}."


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    words = [f" --{name} {getattr(arguments, name)}" for name, usual in _USUAL.items() if
             getattr(arguments, name) != usual]  # fmt: skip
    command = f"OMP_NUM_THREADS=1 python scripts/benchmark_adapter.py{''.join(words)} --out {arguments.out}"
    split = samples(arguments.samples)
    found = {name: calls(form, split) for name, form in forms(split).items()}
    # Graphs are the adapter's in either case: only the forward differs.
    found[THEIRS] = {step: call for step, call in found[THEIRS].items() if step.startswith("curve")}
    check(found)
    return {
        "provenance": provenance(threads=1, command=command).model_dump(mode="json"),
        "processor": processor(),
        "versions": {name: metadata.version(name) for name in ("torch", "brevitas", "numpy", "scipy")},
        "sizes": SIZES,
        "points": POINTS,
        "samples": arguments.samples,
        "rounds": arguments.rounds,
        "seconds": measured(found, arguments.rounds),
    }


_USUAL = {"rounds": 5, "samples": 10_000}


def main() -> None:
    """Measure, or read the record, and write the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=_USUAL["rounds"], help="default %(default)s")
    parser.add_argument("--samples", type=int, default=_USUAL["samples"], help="of a curve (default %(default)s)")
    parser.add_argument("--again", action="store_true", help="write the document anew from the record")
    parser.add_argument("--out", type=Path, required=True, help="folder of adapter.md and adapter.json")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds: expected 1 or more, got {arguments.rounds}")
    if arguments.samples < 1000:
        parser.error(f"--samples: expected 1000 or more, got {arguments.samples}")
    kept = arguments.out / "adapter.json"
    if arguments.again:
        if not kept.is_file():
            parser.error(f"--again: expected the record {kept}, and there is none: measure first")
        record = json.loads(kept.read_text(encoding="utf-8"))
    else:
        record = _measure(arguments)
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_text(kept, json.dumps(record, indent=1) + "\n")
    write_text(arguments.out / "adapter.md", document(record))


if __name__ == "__main__":
    main()
