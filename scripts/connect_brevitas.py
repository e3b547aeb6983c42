"""Train two of Brevitas's bnn_pynq networks from two seeds, connect them, write record, table and page.

usage: python scripts/connect_brevitas.py --data-root FOLDER --out FOLDER [--network NAME] [--epochs N] [--seeds A,B]
example: python scripts/connect_brevitas.py --data-root data/mnist --out runs/tfc

The networks (tfc_1w1a, sfc_1w1a, lfc_1w1a, ...) are those of `brevitas_examples.bnn_pynq`, dropout included. They are
kept after each epoch: the same command again goes on where an interrupted one stopped. MNIST's four files lie in
--data-root or in a folder mnist in it; CNV takes --data cifar10. TFC takes some minutes on two cores. Writes
OUT/record.json, OUT/table.md, OUT/index.html.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import compare
from binarynets.brevitas import FAMILY
from compare.data.names import DATA_SETS
from compare.errors import CompareError
from compare.report import markdown
from compare.runs import Record, write_record

NETWORKS = (
    *("tfc_1w1a", "tfc_1w2a", "tfc_2w2a"),
    *("sfc_1w1a", "sfc_1w2a", "sfc_2w2a"),
    *("lfc_1w1a", "lfc_1w2a"),
    *("cnv_1w1a", "cnv_1w2a", "cnv_2w2a"),
)


class FitError(CompareError, ValueError):
    """A network that does not take the data set."""


def made(name: str, seed: int) -> tuple[nn.Module, int]:
    """A fresh network of bnn_pynq, and the bits of its input quantiser."""
    try:
        from brevitas_examples.bnn_pynq.models import model_with_cfg
    except ImportError as error:
        raise FitError(
            f"{name}: brevitas_examples cannot be imported ({error}): expected the one that comes with brevitas; "
            "install brevitas from its wheel"
        ) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, options = model_with_cfg(name, False)
    return model, options.getint("QUANT", "IN_BIT_WIDTH")


def prepared(data: compare.Data, input_bits: int) -> compare.Data:
    """The inputs that a network of bnn_pynq expects.

    Its forward begins with 2 x - 1 for pixels x in [0, 1]. Ours are the integers v = 2 p - 255. Where the network takes
    the sign of its input, that makes no difference: 2 v - 1 is at least 0 for the same pixels (p >= 128) as
    2 p / 255 - 1. So integers stay integers there. With more bits they would all saturate; then they become p / 255.
    """
    if input_bits == 1:
        return data
    largest = -float(data.train.x.min())

    def pixels(x: Tensor) -> Tensor:
        return (x + largest) / (2 * largest)

    calibration = pixels(data.train.calibration)
    splits = [compare.Split(pixels(split.x), split.y, calibration) for split in (data.train, data.test)]
    return replace(data, train=splits[0], test=splits[1])


def check_fit(name: str, model: nn.Module, data: compare.Data) -> None:
    """Raise ``FitError`` unless the network takes the data set's images and has an output for each class."""
    try:
        with torch.no_grad():
            outputs = model.eval()(data.train.x[:2]).shape[1]
    except RuntimeError as error:
        shape = " x ".join(map(str, data.input_shape))
        wanted = "3 x 32 x 32 (--data cifar10)" if name.startswith("cnv") else "1 x 28 x 28 (--data mnist)"
        raise FitError(f"{name} takes images of {wanted}, {data.name} has {shape} ({error})") from error
    if outputs < data.classes:
        raise FitError(f"{name} has {outputs} outputs, {data.name} has {data.classes} classes: choose another data set")


def connected(name: str, data: compare.Data, seeds: Sequence[int], epochs: int, out: Path, command: str) -> Record:
    """Train what is not trained yet, and connect."""
    starts = [made(name, seed) for seed in seeds]
    data = prepared(data, starts[0][1])
    check_fit(name, starts[0][0], data)
    settings = replace(FAMILY.recipe.settings, epochs=epochs)
    first, second = (
        compare.train(
            model,
            data,
            FAMILY.recipe,
            settings=settings,
            seed=seed,
            folder=out / "networks" / f"{name}-{seed}",
            about={"network": name},
            describe=f"{name}: train seed {seed}",
        )
        for seed, (model, _) in zip(seeds, starts, strict=True)
    )
    return compare.connect(
        replace(FAMILY, title=f"{name} of Brevitas's bnn_pynq"),
        starts[0][0],
        first.params,
        second.params,
        data,
        untrained=compare.parameters(made(name, max(seeds) + 1)[0]),
        trained=(first, second),
        configuration={"network": name, "seeds": list(seeds), "training": settings.as_dict()},
        command=command,
        describe=f"{name}: connect",
    )


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options, checked."""
    parser = argparse.ArgumentParser(
        prog="connect_brevitas.py",
        description="Train two networks of Brevitas's bnn_pynq from two seeds, connect them, write record and page.",
        epilog="example: python scripts/connect_brevitas.py --data-root data/mnist --out runs/tfc",
    )
    parser.add_argument("--network", default="tfc_1w1a", metavar="NAME", help=f"{', '.join(NETWORKS)} (%(default)s)")
    known = f"{', '.join(DATA_SETS)} (%(default)s); the network must take its images, and digits are too small for all"
    parser.add_argument("--data", default="mnist", choices=DATA_SETS, metavar="NAME", help=known)
    parser.add_argument("--data-root", type=Path, metavar="FOLDER", help="folder of the data set's original files")
    parser.add_argument("--epochs", type=int, default=10, metavar="N", help="of training (default %(default)s)")
    parser.add_argument("--seeds", default="0,1", metavar="A,B", help="two different ones (default %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="of networks, record, table and page")
    options = parser.parse_args(arguments)
    options.network = options.network.lower()
    if options.network not in NETWORKS:
        parser.error(f"--network: expected one of {', '.join(NETWORKS)}, got {options.network!r}")
    if options.epochs < 1:
        parser.error(f"--epochs: expected 1 or more, got {options.epochs}")
    options.seeds = _seeds(options.seeds, parser)
    return options


def _seeds(text: str, parser: argparse.ArgumentParser) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if len(set(words)) != 2 or len(words) != 2 or not all(word.isdecimal() for word in words):
        parser.error(f"--seeds: expected two different whole numbers, as 0,1, got {text!r}")
    return [int(word) for word in words]


def _command() -> str:
    words: list[Any] = [f".../{Path(word).name}" if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return shlex.join(["python", "scripts/connect_brevitas.py", *words])


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, connect, write; 0 if all is well, 2 for what the user can mend."""
    options = parsed(arguments)
    try:
        data = compare.load_data(options.data, options.data_root)
        record = connected(options.network, data, options.seeds, options.epochs, options.out, _command())
        write_record(record, options.out / "record.json")
        page = compare.write_report([record], options.out)
    except CompareError as error:
        print(f"connect_brevitas.py: error: {error}", file=sys.stderr)
        return 2
    print(f"{markdown([record], brief=True)}\nrecord: {options.out / 'record.json'}\npage: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
