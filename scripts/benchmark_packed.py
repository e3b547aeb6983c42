"""Time single samples through binary layers: the packed forward, torch float32, onnxruntime int8, larq-compute-engine.

usage: python scripts/benchmark_packed.py [--larq PYTHON] [--rounds N] --out FOLDER
       python scripts/benchmark_packed.py --again --out FOLDER        (the document anew from its record)
example: OMP_NUM_THREADS=1 python scripts/benchmark_packed.py --larq larq-env/bin/python --out docs/results

onnxruntime is measured where `pip install onnxruntime onnx` was done (the extra `benchmark`), larq-compute-engine where
PYTHON has it, see benchmark_larq.py. Writes FOLDER/packed.json and FOLDER/packed.md, made from it alone. One thread.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import binarynets
from binarynets.integer.affine import Affine
from binarynets.integer.network import IntegerNetwork, to_integer
from binarynets.integer.packed_network import packed
from binarynets.integer.plan import Linear, Output, Plan, Scaling
from compare.params import parameters, sign
from compare.runs import write_text
from compare.runs.provenance import provenance

SIZES = (1024, 2048, 4096)
NETWORK = (784, 512, 512, 10)
CALLS = 50
OURS, TORCH, ONNX, LARQ = "binarynets packed", "torch float32", "onnxruntime int8", "larq-compute-engine"

Call = Callable[[], Any]


def layer_calls(units: int) -> dict[str, Call]:
    """Ways to take one sample of +1 and -1 through a layer ``units`` x ``units``, from numbers to sums; checked."""
    generator = torch.Generator().manual_seed(units)
    bits = torch.randint(0, 2, (units, units), generator=generator, dtype=torch.bool)
    weight = bits.float() * 2 - 1
    x = torch.randint(0, 2, (1, units), generator=generator).float() * 2 - 1
    plan = Plan((Linear("layer", 0, "weight"), Output("output", 1, Scaling())))
    ones = torch.ones(units)
    network = packed(IntegerNetwork(plan, {"weight": bits}, {}, {}, Affine(ones, torch.zeros(units))))
    calls: dict[str, Call] = {OURS: lambda: network.sums(x), TORCH: lambda: F.linear(x, weight)}
    if find_spec("onnxruntime") and find_spec("onnx"):
        calls |= onnx_calls(weight.T.to(torch.int8).numpy(), x.numpy())
    expected = x.long() @ weight.T.long()
    for name, call in calls.items():
        if not np.array_equal(np.asarray(call()).reshape(-1), expected.numpy().reshape(-1)):
            raise SystemExit(f"{name} gives another result than the product for {units} units")
    return calls


def onnx_calls(weight: np.ndarray, x: np.ndarray) -> dict[str, Call]:
    """MatMulInteger with int8 weights ``[in, out]``; the sample as int8, and as uint8 with a zero point."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    calls: dict[str, Call] = {}
    for kind, zero in (("int8", 0), ("uint8", 1)):
        tensor = onnx.helper.make_tensor_value_info
        numbers = [onnx.numpy_helper.from_array(weight, "weight")]
        numbers += [onnx.numpy_helper.from_array(np.array(zero, kind), "zero")]
        node = onnx.helper.make_node("MatMulInteger", ["x", "weight", "zero"], ["sums"])
        input_type = onnx.TensorProto.INT8 if kind == "int8" else onnx.TensorProto.UINT8
        graph = onnx.helper.make_graph(
            [node],
            "layer",
            [tensor("x", input_type, [1, len(weight)])],
            [tensor("sums", onnx.TensorProto.INT32, [1, weight.shape[1]])],
            numbers,
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        sample = (x + zero).astype(kind)
        calls[f"{ONNX}, {kind} sample"] = lambda session=session, sample=sample: session.run(None, {"x": sample})[0]
    return calls


def network_calls(sizes: Sequence[int]) -> dict[str, Call]:
    """Ways to take one sample of pixels through a whole network, to its outputs; checked."""
    torch.manual_seed(0)
    model = binarynets.mlp(sizes[0], sizes[1:-1], sizes[-1])
    pixels = torch.randint(0, 256, (512, sizes[0]), generator=torch.Generator().manual_seed(0))
    inputs = 2.0 * pixels - 255
    with torch.no_grad():
        model.train()(inputs)  # so that normalisation has statistics
    model.eval()
    network = to_integer(model, parameters(model))
    fast, x = packed(network), inputs[:1]
    layers = [(layer, norm) for layer, norm in zip(list(model)[1::3], list(model)[2::3], strict=True)]
    dense = [(sign(layer.weight.detach()), norm) for layer, norm in layers]

    def plain() -> Tensor:
        with torch.inference_mode():
            values = x
            for number, (weight, norm) in enumerate(dense):
                values = F.linear(values if number == 0 else sign(values), weight)
                values = F.batch_norm(values, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
            return values

    if not torch.equal(fast(x), model(x)[0]) or not torch.equal(plain(), model(x)):
        raise SystemExit("the packed forward gives another result than the network")
    return {OURS: lambda: fast(x), TORCH: plain}


def measured(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Seconds of every call, all ways in turn within each round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            for _ in range(3):  # its own weights into the cache again
                call()
            for _ in range(CALLS):
                began = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - began)
    return seconds


def summarised(seconds: Sequence[float]) -> dict[str, float]:
    """Median and quartiles, in microseconds, and how many calls there were."""
    first, median, third = (1e6 * value for value in statistics.quantiles(seconds, n=4))
    return {"median": median, "first_quartile": first, "third_quartile": third, "calls": len(seconds)}


def larq_seconds(python: str, rounds: int) -> dict[str, Any]:
    """What benchmark_larq.py measured in an environment of its own."""
    script = Path(__file__).with_name("benchmark_larq.py")
    words = [python, str(script), str(rounds), str(CALLS), *map(str, SIZES)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{python} could not run {script.name}:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def document(record: dict[str, Any]) -> str:
    """The document, from the record alone."""
    made, versions = record["provenance"], record["versions"]
    shown = ", ".join(f"{name} {version}" for name, version in versions.items())
    vectors = ", ".join(record["vectors"]) or "none of AVX2, AVX-512, VNNI, VPOPCNTDQ"
    parts = [
        "# One sample through binary layers",
        "",
        f"Made by\n\n```sh\n{made['command']}\n```\n\nat revision {made['revision']}, with {shown}, Python "
        f"{made['python']}, one thread, {made['platform']}, {record['processor']} ({vectors}). Wall time of one call "
        "from Python, in microseconds: the median over all calls with quartiles in brackets (record: "
        "[packed.json](packed.json)). The ways take turns, 50 calls each, so weights lie in the cache as far as it "
        "holds them. Every result is compared with the integer product first.",
        "",
        *_layers_section(record),
        "",
        *_network_section(record),
    ]
    return "\n".join(parts) + "\n"


def _layers_section(record: dict[str, Any]) -> Iterator[str]:
    yield "## A layer of n inputs and n units, from +1 and -1 as numbers to integer sums"
    yield ""
    layers = record["layers"]
    yield f"| how | {' | '.join(f'n = {n}' for n in layers)} |"
    yield f"| --- |{' ---: |' * len(layers)}"
    names = list(dict.fromkeys(name for found in layers.values() for name in found))
    for name in names:
        yield f"| {name} | {' | '.join(_cell(found, name) for found in layers.values())} |"
    for name in (ONNX, LARQ):
        if not any(found.startswith(name) for found in names):
            yield f"| {name} | {' | '.join(['not installed'] * len(layers))} |"
    yield ""
    for n, found in layers.items():
        ours = found[OURS]["median"]
        others = sorted((values["median"], name) for name, values in found.items() if name != OURS)
        if ours <= others[0][0]:
            yield f"- n = {n}: **{OURS}** wins; {_longer(others, ours, 'it')}."
        else:
            yield f"- n = {n}: **{others[0][1]}** wins; {_longer(others, ours, OURS)}."
    yield ""
    yield (
        "The packed forward gets float32 numbers and does its packing within the call; onnxruntime gets 8-bit numbers "
        "(MatMulInteger, weights int8), so its own quantisation is not counted; judge it by its faster row. "
        "larq-compute-engine is timed in a process of its own, after the others, through a 1 x 1 convolution; its "
        "makers say that it is optimised for ARM and falls back to plain kernels on x86, so its row says nothing about "
        "telephones."
    )


def _longer(others: Sequence[tuple[float, str]], ours: float, than: str) -> str:
    (nearest, name), *rest = others
    texts = [f"{name} takes {nearest / ours:.1f} times as long as {than}"]
    return ", ".join([*texts, *(f"{name} {median / ours:.1f} times" for median, name in rest)])


def _network_section(record: dict[str, Any]) -> Iterator[str]:
    found = record["network"]["found"]
    yield f"## A network {'-'.join(map(str, record['network']['sizes']))}, from pixels to outputs"
    yield ""
    yield "| how | microseconds |"
    yield "| --- | ---: |"
    for name in found:
        yield f"| {name} | {_cell(found, name)} |"
    yield ""
    yield (
        f"Torch takes {found[TORCH]['median'] / found[OURS]['median']:.1f} times as long. It has its weights as +1 and "
        "-1 in float32 already, and both give the same outputs bit for bit."
    )


def _cell(found: dict[str, Any], name: str) -> str:
    if name not in found:
        return "-"
    values = found[name]
    return f"{values['median']:,.1f} ({values['first_quartile']:,.1f} to {values['third_quartile']:,.1f})"


def _processor() -> tuple[str, list[str]]:
    """Its name, and which vector instructions of interest it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        flags = next(line.partition(":")[2].split() for line in lines if line.startswith("flags"))
    except (OSError, StopIteration):
        return platform.processor() or "processor not known", []
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_vpopcntdq", "amx_int8")
    return name, [flag for flag in wanted if flag in flags]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    words = [f" --larq {Path(*Path(arguments.larq).parts[-3:])}"] if arguments.larq else []
    words += [f" --rounds {arguments.rounds}"] if arguments.rounds != 20 else []
    command = f"OMP_NUM_THREADS=1 python scripts/benchmark_packed.py{''.join(words)} --out {arguments.out}"
    layers: dict[str, dict[str, Any]] = {}
    for units in tqdm(SIZES, desc="layers", disable=None):
        found = measured(layer_calls(units), arguments.rounds)
        layers[str(units)] = {name: summarised(seconds) for name, seconds in found.items()}
    network = measured(network_calls(NETWORK), arguments.rounds)
    versions = {name: _version(name) for name in ("torch", "numba", "llvmlite", "numpy", "onnxruntime", "onnx")}
    if arguments.larq:
        larq = larq_seconds(arguments.larq, arguments.rounds)
        for units, seconds in larq["seconds"].items():
            layers[units][LARQ] = summarised(seconds)
        versions |= {name: version for name, version in larq["versions"].items() if name != "numpy"}
    name, vectors = _processor()
    return {
        "provenance": provenance(threads=1, command=command).model_dump(mode="json"),
        "processor": name,
        "vectors": vectors,
        "versions": versions,
        "layers": layers,
        "network": {"sizes": NETWORK, "found": {way: summarised(seconds) for way, seconds in network.items()}},
    }


def main() -> None:
    """Measure, or read the record, and write the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--larq", metavar="PYTHON", help="a Python that has larq-compute-engine")
    parser.add_argument("--rounds", type=int, default=20, help=f"rounds of {CALLS} calls each (default 20)")
    parser.add_argument("--again", action="store_true", help="write the document anew from the record")
    parser.add_argument("--out", type=Path, required=True, help="folder of packed.md and packed.json")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds: expected 1 or more, got {arguments.rounds}")
    kept = arguments.out / "packed.json"
    if arguments.again:
        record = json.loads(kept.read_text(encoding="utf-8"))
    else:
        record = _measure(arguments)
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_text(kept, json.dumps(record, indent=1) + "\n")
    write_text(arguments.out / "packed.md", document(record))


if __name__ == "__main__":
    sys.exit(main())
