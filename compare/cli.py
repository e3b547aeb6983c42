"""The command line ``compare-nets``. Torch is imported by the commands that need it, so that help comes at once."""

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compare.errors import CompareError

if TYPE_CHECKING:
    from compare.data import Data
    from compare.runs import Configuration

_FILES = """files in --data-root (those of mnist, fashion-mnist and cifar10 also in a folder of that name in it):
  digits                embedded, needs none
  mnist, fashion-mnist  the four original IDX files, gzipped or not
  cifar10               the binary or the Python version, its files or the official archive
  images                PNG or JPEG: train/CLASS/FILE and test/CLASS/FILE, or CLASS/FILE"""

_CHOICES = """what goes together:
  resnet trains, but cannot be connected yet: use mlp or vgg
  bop is for binary networks alone (with `run`: --precisions binary), and not for the algorithms rsgd and sam
  hyperparameters belong to one algorithm each: --rho 0.1 needs --algorithm sam"""

_EPILOGS = {
    "run": f"""examples:
  compare-nets run
      the embedded digits, binary and full precision, 3 networks each (about a minute)
  compare-nets run --data mnist --data-root ~/data/mnist --hidden 512,512 --epochs 20
  compare-nets run --config study.toml --out runs/study --dry-run
      print the whole configuration as TOML and stop

The same command again goes on where an interrupted one stopped, and makes nothing twice.

a file for --config, its top before its two tables:
  data = "digits"
  seeds = [0, 1, 2]
  [architecture]
  hidden = [256, 256]
  [training]
  epochs = 20

{_FILES}

{_CHOICES}""",
    "train": f"""example:
  compare-nets train --precision binary --data digits --seed 3 --out runs/binary-3
  compare-nets train --precision full --algorithm rsgd --replicas 3 --optimiser sgd --out runs/wide-0

The same command again goes on where an interrupted one stopped.

{_FILES}

{_CHOICES}""",
    "connect": f"""example:
  compare-nets connect runs/binary-3 runs/binary-4 --out record.json

{_FILES}""",
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
        return 0
    return 0


def _say(text: str) -> None:
    """Print at once.

    Raises:
        OutputError: If standard output is closed or full.
        BrokenPipeError: If its reader has gone.
    """
    from compare.runs.files import OutputError

    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "it is closed")
        print(text, flush=True)  # noqa: T201
    except OSError as error:
        _discard_output()
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputError(
            error.errno, f"could not write to standard output: {error.strerror}. Send it somewhere else"
        ) from error


def _discard_output() -> None:
    """What is left in the buffer would fail once more, with a traceback, when Python exits."""
    with contextlib.suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    train.add_argument("--seed", type=_seed, default=0, help="seed of initial parameters and order (default: 0)")
    train.add_argument(
        "--out", type=Path, required=True, help="folder of the checkpoint; training goes on from one there"
    )
    _configuration_options(train)
    _data_options(train)
    connect = _command(commands, "connect", _connect, "measure what lies between two checkpoints, write one record")
    connect.add_argument("a", type=Path, help="folder (or file) of the first checkpoint")
    connect.add_argument("b", type=Path, help="of the second, same precision, shape and data")
    connect.add_argument("--out", type=Path, required=True, help="file of the record (JSON)")
    connect.add_argument("--seed", type=_seed, default=0, help="seed of matching and controls (default: 0)")
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
        epilog=_EPILOGS[name],
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
    from compare.runs.configuration import HYPERPARAMETERS, Architecture, Configuration, Training

    own = {name: default for defaults in HYPERPARAMETERS.values() for name, default in defaults.items()}
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
            default = own.get(name, field.default)
            unset = "that of --learning-rate" if name in own else "the precision's own"
            known = unset if default is None else _as_option(default)
            group.add_argument(
                f"--{name.replace('_', '-')}",
                dest=f"set:{prefix}{name}",
                metavar=name.upper(),
                type=_reader(field.default),
                help=f"{field.description} (default: {known})",
            )


def _as_option(value: Any) -> str:
    if not isinstance(value, tuple):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return ("/" if value and isinstance(value[0], tuple) else ",").join(map(_as_option, value))


def _positive(text: str) -> int:
    return _whole(text, least=1)


def _seed(text: str) -> int:
    return _whole(text, least=0)


def _whole(text: str, *, least: int) -> int:
    if not text.isdecimal() or not least <= int(text) < 2**63:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least} to 2**63 - 1, got {text!r}")
    return int(text)


def _reader(default: Any) -> Callable[[str], Any]:
    if not isinstance(default, tuple):
        return str
    return _split_twice if default and isinstance(default[0], tuple) else _split


def _split(text: str) -> list[str]:
    """``a,b`` to a list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _split_twice(text: str) -> list[list[str]]:
    """``a,b/c,d`` to a list of lists; ``a,b`` to a list of one."""
    return [_split(part) for part in text.split("/")]


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
    _check_precisions(configuration)
    folder = options.out or Path("runs") / folder_name(configuration)
    _say(f"{to_toml(configuration)}\n# output folder: {folder}")
    if options.dry_run:
        return
    from compare.experiment import run
    from compare.runs.provenance import command_line

    data = _load(configuration.data, options)
    records = run(configuration, data, folder, command=command_line())
    _write(records, folder / "report")


def _check_precisions(configuration: "Configuration") -> None:
    """As ``families`` does, without importing them (and torch)."""
    from compare.precisions import installed
    from compare.runs import ConfigurationError

    known = installed()
    for name in configuration.precisions:
        if name not in known:
            raise ConfigurationError(
                f"precisions (--precisions): unknown precision {name!r}: installed are {', '.join(known) or 'none'}"
            )


def _train(options: argparse.Namespace) -> None:
    from compare.experiment import train_one
    from compare.family import families

    configuration = _configuration(options)
    family = families((options.precision,))[options.precision]
    _check_checkpoint_folder(options.out)
    data = _load(configuration.data, options)
    describe = f"{family.name}: train seed {options.seed}"
    trained = train_one(family, configuration, data, options.out, seed=options.seed, describe=describe)
    last = trained.history[-1]
    replicated = configuration.training.algorithm == "rsgd"
    of_replicas, of_barycentre = (" of the replicas", " of their barycentre") if replicated else ("", "")
    _say(
        f"{family.name}, {last.epoch} epochs: train error {last.train_error:.2%} (running mean{of_replicas} over the "
        f"last epoch), test error {last.test_error:.2%}{of_barycentre}\ncheckpoint: {options.out}"
    )


def _check_checkpoint_folder(folder: Path) -> None:
    from compare.runs.files import OutputError, check_writable, is_free
    from compare.training.checkpoint import FILE

    if not os.path.exists(folder / FILE) and not is_free(folder):
        raise OutputError(
            errno.ENOTEMPTY, f"{folder} is not empty and holds no checkpoint: choose a new or an empty folder"
        )
    check_writable(folder / FILE)


def _connect(options: argparse.Namespace) -> None:
    from compare.experiment import connect_checkpoints
    from compare.report import markdown
    from compare.runs import write_record
    from compare.runs.provenance import command_line
    from compare.training import read_checkpoint

    a, b = read_checkpoint(options.a), read_checkpoint(options.b)
    _check_record_file(options.out)
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
    _say(f"{markdown([record])}\nrecord: {options.out}")


def _check_record_file(file: Path) -> None:
    from compare.runs import RecordError, read_record
    from compare.runs.files import check_writable

    check_writable(file)
    if os.path.lexists(file):
        try:
            read_record(file)
        except RecordError as error:
            raise RecordError(f"--out: only a record is replaced, and {error}. Choose another file") from error


def _report(options: argparse.Namespace) -> None:
    from compare.runs import read_records

    _write(read_records(options.records), options.out)


def _write(records: Sequence[Any], folder: Path) -> None:
    from compare.report import markdown, write_report

    _check_report_folder(folder)
    page = write_report(records, folder)
    _say(f"{markdown(records, brief=True)}\nall tables: {page.with_name('table.md')}\npage: {page}")


def _check_report_folder(folder: Path) -> None:
    """Each file of a report bears its title near the top."""
    from compare.runs.files import OutputError, check_writable

    for name in ("index.html", "table.md"):
        file = folder / name
        check_writable(file)
        if os.path.lexists(file) and b"Connectivity report" not in _top(file):
            raise OutputError(errno.EEXIST, f"{file} is no report of compare-nets: choose another folder, or move it")


def _top(file: Path) -> bytes:
    from compare.runs.files import OutputError

    try:
        with open(file, "rb") as opened:
            return opened.read(2000)
    except OSError as error:
        raise OutputError(
            error.errno, f"could not look into {file}: {error.strerror}. Choose another folder"
        ) from error


def _precisions(options: argparse.Namespace) -> None:
    from compare.precisions import installed

    points = installed()
    width = max(map(len, points), default=0)
    for name, point in points.items():
        distribution = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown distribution"
        _say(f"{name:<{width}}  {point.value}  ({distribution})")
