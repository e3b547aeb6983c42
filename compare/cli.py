"""The command line ``compare-nets``. Torch is imported by the commands that need it, so that help comes at once."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compare.errors import CompareError

if TYPE_CHECKING:
    from compare.data import Data
    from compare.runs import Configuration

_EXAMPLES = {
    "run": """examples:
  compare-nets run
      the embedded digits, binary and full precision, 3 networks each (about a minute)
  compare-nets run --data mnist --data-root ~/data/mnist --hidden 512,512 --epochs 20
  compare-nets run --config study.toml --out runs/study --dry-run
      print the whole configuration and stop""",
    "train": """example:
  compare-nets train --precision binary --data digits --seed 3 --out runs/binary-3""",
    "connect": """example:
  compare-nets connect runs/binary-3 runs/binary-4 --out record.json""",
    "report": """example:
  compare-nets report runs/mnist runs/other/records/full-0-1.json --out reports/both""",
    "precisions": """example:
  compare-nets precisions""",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``compare-nets``.

    Args:
        arguments: Words behind the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 2 for something the user can mend, 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        command(options)
        sys.stdout.flush()
    except CompareError as error:
        print(f"compare-nets {options.name}: error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        print(  # noqa: T201
            f"\ncompare-nets {options.name}: interrupted. Finished epochs and records are kept whole; "
            "the same command goes on from them.",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:  # the reader of our output has gone (a pager, head): that is no error
        sys.stderr.close()
        return 0
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compare-nets",
        description="Train networks of several precisions, connect them, and put the reports side by side.",
    )
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")
    run = _command(commands, "run", _run, "the main job: train, connect every pair, write records, tables and the page")
    _configuration_options(run, "precisions", "seeds", "points", "samples")
    run.add_argument("--out", type=Path, help="output folder (default: runs/DATA-NETWORK-IDENTITY)")
    run.add_argument("--dry-run", action="store_true", help="print the configuration and the folder, and stop")
    _data_options(run)
    train = _command(commands, "train", _train, "train one network and keep it as a checkpoint")
    train.add_argument("--precision", required=True, help="a name that `compare-nets precisions` lists")
    train.add_argument("--seed", type=int, default=0, help="seed of initial parameters and order (default: 0)")
    train.add_argument(
        "--out", type=Path, required=True, help="folder of the checkpoint; training goes on from one there"
    )
    _configuration_options(train)
    _data_options(train)
    connect = _command(commands, "connect", _connect, "measure what lies between two checkpoints, write one record")
    connect.add_argument("a", type=Path, help="folder (or file) of the first checkpoint")
    connect.add_argument("b", type=Path, help="of the second, same precision, shape and data")
    connect.add_argument("--out", type=Path, required=True, help="file of the record (JSON)")
    connect.add_argument("--seed", type=int, default=0, help="seed of matching and controls (default: 0)")
    connect.add_argument("--points", type=int, default=25, help="networks measured on a path (default: 25)")
    connect.add_argument("--samples", type=int, default=10_000, help="samples measured of each split (default: 10000)")
    _data_options(connect)
    report = _command(commands, "report", _report, "tables and page from any number of records")
    report.add_argument("records", type=Path, nargs="+", help="record files, or output folders of `run`")
    report.add_argument("--out", type=Path, required=True, help="folder of index.html and table.md")
    _command(commands, "precisions", _precisions, "list the precisions that are installed")
    return parser


def _command(commands: Any, name: str, function: Callable[..., None], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=_EXAMPLES[name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=function)
    return parser


def _data_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where the data lie")
    group.add_argument("--data-root", type=Path, help="folder that holds the data set's original files")
    group.add_argument("--download", action="store_true", help="fetch missing files, checked by their checksums")
    group.add_argument("--threads", type=_positive, help="threads that torch uses (default: its own choice)")


def _configuration_options(parser: argparse.ArgumentParser, *more: str) -> None:
    """One option for each field of the configuration, named, described and defaulted as there."""
    from compare.runs.configuration import Architecture, Configuration, Training

    group = parser.add_argument_group("what is run (each may also stand in the --config file)")
    group.add_argument("--config", type=Path, help="TOML file; options win over it")
    tables = (
        ("", Configuration, ("data", *more)),
        ("architecture.", Architecture, None),
        ("training.", Training, None),
    )
    for prefix, model, names in tables:
        for name in names or model.model_fields:
            field = model.model_fields[name]
            known = "the precision's own" if field.default is None else _as_option(field.default)
            group.add_argument(
                f"--{name.replace('_', '-')}",
                dest=f"set:{prefix}{name}",
                metavar=name.upper(),
                type=_split if isinstance(field.default, tuple) else str,
                help=f"{field.description} (default: {known})",
            )


def _as_option(value: Any) -> str:
    if not isinstance(value, tuple):
        return str(value)
    return ("/" if value and isinstance(value[0], tuple) else ",").join(map(_as_option, value))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {number}")
    return number


def _split(text: str) -> list[Any]:
    """``a,b`` to a list, ``a,b/c,d`` to a list of lists."""
    if "/" in text:
        return [_split(part) for part in text.split("/")]
    return [part.strip() for part in text.split(",") if part.strip()]


def _configuration(options: argparse.Namespace) -> "Configuration":
    from compare.runs.configuration import configure

    given = {name.removeprefix("set:"): value for name, value in vars(options).items() if name.startswith("set:")}
    return configure(given, options.config)


def _load(name: str, options: argparse.Namespace) -> "Data":
    import torch

    from compare.data import load_data

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return load_data(name, options.data_root, download=options.download)


def _run(options: argparse.Namespace) -> None:
    from compare.runs.configuration import folder_name, to_toml

    configuration = _configuration(options)
    folder = options.out or Path("runs") / folder_name(configuration)
    print(to_toml(configuration), flush=True)  # noqa: T201
    if options.dry_run:
        print(f"output folder: {folder}")  # noqa: T201
        return
    from compare.experiment import run
    from compare.runs.provenance import command_line

    data = _load(configuration.data, options)
    records = run(configuration, data, folder, command=command_line())
    _write(records, folder / "report")


def _train(options: argparse.Namespace) -> None:
    from compare.experiment import train_one
    from compare.family import families

    configuration = _configuration(options)
    family = families((options.precision,))[options.precision]
    data = _load(configuration.data, options)
    describe = f"{family.name}: train seed {options.seed}"
    trained = train_one(family, configuration, data, options.out, seed=options.seed, describe=describe)
    last = trained.history[-1]
    print(  # noqa: T201
        f"{family.name}, {last.epoch} epochs: train error {last.train_error:.2%} (running mean over the last epoch), "
        f"test error {last.test_error:.2%}\ncheckpoint: {options.out}"
    )


def _connect(options: argparse.Namespace) -> None:
    from compare.experiment import connect_checkpoints
    from compare.report import markdown
    from compare.runs import write_record
    from compare.runs.provenance import command_line
    from compare.training import read_checkpoint

    a, b = read_checkpoint(options.a), read_checkpoint(options.b)
    record = connect_checkpoints(
        a,
        b,
        lambda name: _load(name, options),
        seed=options.seed,
        points=options.points,
        samples=options.samples,
        command=command_line(),
        describe="connect",
    )
    write_record(record, options.out)
    print(markdown([record]))  # noqa: T201
    print(f"record: {options.out}")  # noqa: T201


def _report(options: argparse.Namespace) -> None:
    from compare.runs import read_records

    _write(read_records(options.records), options.out)


def _write(records: Sequence[Any], folder: Path) -> None:
    from compare.report import markdown, write_report

    page = write_report(records, folder)
    print(markdown(records, brief=True))  # noqa: T201
    print(f"all tables: {page.with_name('table.md')}\npage: {page}")  # noqa: T201


def _precisions(options: argparse.Namespace) -> None:
    from compare.precisions import installed

    points = installed()
    width = max(map(len, points), default=0)
    for name, point in points.items():
        distribution = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown distribution"
        print(f"{name:<{width}}  {point.value}  ({distribution})")  # noqa: T201
