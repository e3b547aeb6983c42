"""Measure matching: objective and seconds on a trained pair and on large networks, and the time that tracing takes.

usage: python scripts/benchmark_matching.py [--pair A.safetensors B.safetensors] [--seeds N] --out FOLDER
       python scripts/benchmark_matching.py --again --out FOLDER        (the document anew from its record)
example: python scripts/benchmark_matching.py --out docs/results --pair a.safetensors b.safetensors

The pair: ReLU networks with the parameters layer0.weight, layer0.bias, layer1.weight, ..., matched as they are.
Writes FOLDER/matching.json (every single run) and FOLDER/matching.md, which is made from it alone. One thread.
"""

import argparse
import functools
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

import fullprecision
from compare.params import Params, parameters
from compare.runs import write_text
from compare.runs.provenance import processor, provenance
from compare.symmetry import Graph, Match, match, random_element, standard_form, trace

ROOT = Path(__file__).parents[1]
PAIR_OPTIONS: dict[str, dict[str, Any]] = {
    "one descent, from the identity": {"starts": ("identity",)},
    "one descent, from the sweep": {"starts": ("sweep",)},
    "one descent, from descriptors": {"starts": ("descriptors",)},
    "annealing, 40 temperatures": {"starts": ("annealing",)},
    "default (annealing and descriptors)": {},
    "budget_s=0.3": {"budget_s": 0.3},
    "budget_s=1": {"budget_s": 1.0},
    "budget_s=5": {"budget_s": 5.0},
    "budget_s=60": {"budget_s": 60.0},
}
LARGE: dict[str, Callable[[Any], nn.Module]] = {
    "ResNet-18, width 64, as in torchvision": lambda nets: nets.resnet18(),
    "VGG-16, batch normalisation": lambda nets: nets.vgg16(),
    "ViT encoder, 12 layers of width 192, 3 heads": lambda nets: nets.vit(
        patch=4, depth=12, width=192, heads=3, mlp=768
    ),
}
LARGE_OPTIONS: dict[str, dict[str, Any]] = {
    "one descent, from the identity": {"starts": ("identity",)},
    "one descent, from descriptors": {"starts": ("descriptors",)},
    "default (annealing and descriptors)": {},
}
NOISE = 0.5


class Mlp(nn.Module):
    """The pair's network."""

    def __init__(self, sizes: Sequence[int]) -> None:
        """Make the layers."""
        super().__init__()
        self.depth = len(sizes) - 1
        for i in range(self.depth):
            setattr(self, f"layer{i}", nn.Linear(sizes[i], sizes[i + 1]))

    def forward(self, x: Tensor) -> Tensor:
        """Apply them."""
        for i in range(self.depth - 1):
            x = torch.relu(getattr(self, f"layer{i}")(x))
        return getattr(self, f"layer{self.depth - 1}")(x)


def measured(graph: Graph, a: Params, b: Params, options: dict[str, Any], seed: int) -> dict[str, float]:
    """One match: objective, seconds, and the share of them in linear assignments."""
    found: Match = match(graph, a, b, seed=seed, **options)
    return {
        "seed": seed,
        "objective": found.objective,
        "seconds": found.seconds,
        "assignment_share": found.assignment_seconds / found.seconds,
        "sweeps": found.sweeps,
    }


def on_the_pair(paths: Sequence[Path], seeds: int, progress: Callable[[str], None]) -> dict[str, Any]:
    """All ways to match two trained networks."""
    a, b = (load_file(path) for path in paths)
    depth = len(a) // 2
    sizes = [a["layer0.weight"].shape[1], *(len(a[f"layer{i}.weight"]) for i in range(depth))]
    graph = trace(Mlp(sizes).eval(), torch.randn(4, sizes[0]), fullprecision.FAMILY)
    runs = {}
    for name, options in PAIR_OPTIONS.items():
        progress(name)
        count = min(seeds, 2) if options.get("budget_s", 0) > 10 else seeds
        runs[name] = [measured(graph, a, b, options, seed) for seed in range(count)]
    unmatched = sum(float((a[name].double() * b[name].double()).sum()) for name in a)
    return {"sizes": sizes, "unmatched": unmatched, "bound": match(graph, a, b, starts=("sweep",)).bound, "runs": runs}


def on_a_large_network(build: Callable[[], nn.Module], seeds: int, progress: Callable[[str], None]) -> dict[str, Any]:
    """A random network against a symmetric copy with noise: seconds, and the part of the planted objective reached."""
    torch.manual_seed(0)
    model = build().eval()
    began = time.perf_counter()
    graph = trace(model, torch.randn(2, 3, 32, 32), fullprecision.FAMILY)
    traced = time.perf_counter() - began
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in LARGE_OPTIONS}
    a = standard_form(graph, parameters(model), invariant="loss")
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        noisy = {name: _noisy(tensor, generator) for name, tensor in a.items()}
        copy = random_element(graph, generator)
        b = standard_form(graph, copy.apply(noisy), invariant="loss")
        aligned = standard_form(graph, noisy, invariant="loss")
        planted = match(graph, a, aligned, starts=("identity",)).objective
        for name, options in LARGE_OPTIONS.items():
            progress(f"{name}, seed {seed}")
            run = measured(graph, a, b, options, seed)
            runs[name].append(run | {"of_planted": run["objective"] / planted})
    count = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": count, "blocks": len(graph.blocks), "trace_seconds": traced, "runs": runs}


def _noisy(tensor: Tensor, generator: torch.Generator) -> Tensor:
    if not tensor.is_floating_point() or tensor.ndim < 2:
        return tensor
    return tensor + NOISE * tensor.std() * torch.randn(tensor.shape, generator=generator)


def document(record: dict[str, Any]) -> str:
    """The document, from the record alone."""
    made = record["provenance"]
    parts = [
        "# Matching: objective and seconds",
        "",
        f"Made by\n\n```sh\n{made['command']}\n```\n\nat revision {made['revision']}, with torch "
        f"{made['packages']['torch']}, SciPy {made['packages']['scipy']}, Python {made['python']}, "
        f"one thread, {made['platform']}, {record['processor']}. "
        "Every single run is in [matching.json](matching.json). Objective: sum over weights and biases of <a, g b>, "
        "float64. Seconds: wall time of one call of `compare.match`, tracing not included; they depend on the machine, "
        "so compare within this page. Assignment: part of the time in SciPy's `linear_sum_assignment`. Values are "
        "medians over seeds, with the smallest and the largest in brackets; `n` is the number of seeds.",
        "",
    ]
    if record.get("pair"):
        parts += [*_pair_section(record["pair"]), ""]
    parts += _large_section(record["large"])
    return "\n".join(parts) + "\n"


def _pair_section(pair: dict[str, Any]) -> Iterator[str]:
    yield f"## A trained pair, {'-'.join(map(str, pair['sizes']))}"
    yield ""
    yield (
        "Two ReLU networks trained on MNIST from different seeds, weights as they are (no standard form), permutations "
        f"only. Unmatched the objective is {pair['unmatched']:.2f}; the upper bound {pair['bound']:.1f} is far off, so "
        "how much is left is not known. A descent ends where no block can be improved; which end it is depends on the "
        "order of blocks, that is on the seed."
    )
    yield ""
    yield "| how | objective | seconds | assignment (%) | n |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name, runs in pair["runs"].items():
        yield (
            f"| {name} | {_spread(runs, 'objective', '.2f')} | {_spread(runs, 'seconds', '.2f')} | "
            f"{_spread(runs, 'assignment_share', '.0f', 100)} | {len(runs)} |"
        )


def _large_section(large: dict[str, Any]) -> Iterator[str]:
    yield "## Large networks"
    yield ""
    yield (
        "A freshly drawn network in standard form against a random symmetric copy of itself with Gaussian noise on its "
        f"weights, {NOISE} of each tensor's standard deviation. Planted: the objective of the element that undoes the "
        "copy; 100 % recovers it. Tracing includes the certificate on data."
    )
    yield ""
    yield "| network | parameters | trace (s) | how | of planted (%) | seconds | assignment (%) | n |"
    yield "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |"
    for network, found in large.items():
        for name, runs in found["runs"].items():
            yield (
                f"| {network} | {found['parameters']:,} | {found['trace_seconds']:.1f} | {name} | "
                f"{_spread(runs, 'of_planted', '.2f', 100)} | {_spread(runs, 'seconds', '.1f')} | "
                f"{_spread(runs, 'assignment_share', '.0f', 100)} | {len(runs)} |"
            )


def _spread(runs: Sequence[dict[str, float]], key: str, form: str, factor: float = 1) -> str:
    values = [factor * run[key] for run in runs]
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _reference_networks() -> Any:
    """The tests' own networks in the style of torchvision."""
    spec = importlib.util.spec_from_file_location("reference_nets", ROOT / "tests" / "reference_nets.py")
    assert spec is not None, "the file is there"
    assert spec.loader is not None, "it is a module"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _show(bar: Any, network: str, text: str) -> None:
    bar.set_description_str(f"{network}: {text}")


def main() -> None:
    """Measure, or read the record, and write the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs=2, type=Path, metavar=("A", "B"), help="two trained networks, safetensors")
    parser.add_argument("--seeds", type=int, default=5, help="runs of everything but the longest (default 5)")
    parser.add_argument("--again", action="store_true", help="write the document anew from the record")
    parser.add_argument("--out", type=Path, required=True, help="folder of matching.md and matching.json")
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error(f"--seeds: expected 1 or more, got {arguments.seeds}")
    kept = arguments.out / "matching.json"
    if arguments.again:
        record = json.loads(kept.read_text(encoding="utf-8"))
    else:
        record = _measure(arguments)
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_text(kept, json.dumps(record, indent=1) + "\n")
    write_text(arguments.out / "matching.md", document(record))


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    pair = f" --pair {arguments.pair[0]} {arguments.pair[1]}" if arguments.pair else ""
    command = f"OMP_NUM_THREADS=1 python scripts/benchmark_matching.py --out {arguments.out}{pair}"
    bar = tqdm(bar_format="{desc} [{elapsed}]", disable=None)
    record: dict[str, Any] = {
        "provenance": provenance(threads=1, command=command).model_dump(mode="json"),
        "processor": processor(),
    }
    if arguments.pair:
        record["pair"] = on_the_pair(arguments.pair, arguments.seeds, lambda text: bar.set_description_str(text))
    nets = _reference_networks()
    record["large"] = {}
    for name, build in LARGE.items():
        show = functools.partial(_show, bar, name)
        record["large"][name] = on_a_large_network(functools.partial(build, nets), min(3, arguments.seeds), show)
    bar.close()
    return record


if __name__ == "__main__":
    main()
