"""What the scripts of studies share: options, checks of them, work on several cores, and how a script ends."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import joblib

from compare.data import DATA_SETS
from compare.errors import CompareError
from compare.progress import progress
from compare.runs.files import check_writable


class OptionError(CompareError, ValueError):
    """Options that make no study, or that name records which are not there."""


def parser(description: str, example: str, *, folder: str, data: str) -> argparse.ArgumentParser:
    """A parser with the options that come first: the folder of the run, the data set and its files.

    Args:
        description: What the script does.
        example: A command that runs, from the script's name on.
        folder: What the first argument is.
        data: Data set unless told.

    Returns:
        The parser, to which a script adds options of its own.
    """
    made = argparse.ArgumentParser(description=description, epilog=f"example: python scripts/{example}")
    made.add_argument("run", type=Path, help=folder)
    default = "digits, embedded" if data == "digits" else data
    made.add_argument("--data", default=data, choices=DATA_SETS, help=f"data set (default: {default})")
    made.add_argument("--data-root", type=Path, help="folder of the data set's files")
    return made


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str] | None, *, records: str) -> argparse.Namespace:
    """The options, with those that come last: processes, the folder of the document, and whether to measure at all.

    Args:
        parser: With all other options; not changed.
        arguments: Those of the command line; None for this process's own.
        records: What ``--records`` does.

    Returns:
        All options.
    """
    whole = argparse.ArgumentParser(
        description=parser.description, epilog=parser.epilog, parents=[parser], add_help=False
    )
    whole.add_argument("--jobs", type=int, default=-1, help="processes (default: one for each core)")
    whole.add_argument("--out", type=Path, required=True, help="folder of the document")
    whole.add_argument("--records", action="store_true", help=records)
    return whole.parse_args(arguments)


def check(options: argparse.Namespace, least: Mapping[str, int]) -> None:
    """Refuse numbers that are too small, and no processes at all.

    Args:
        options: With ``jobs``; what is None is not looked at.
        least: The smallest number that makes a study, by the option's name.

    Raises:
        OptionError: Naming the option, what was expected and what came.
    """
    for name, smallest in least.items():
        got = getattr(options, name)
        if got is not None and got < smallest:
            raise OptionError(f"--{name.replace('_', '-')}: expected at least {smallest}, got {got}")
    if options.jobs == 0:
        raise OptionError("--jobs: expected a number of processes, or -1 for one for each core, got 0")


def do_all(pieces: Sequence[Callable[[], object]], jobs: int, what: str) -> None:
    """Do pieces of work that do not depend on each other.

    Args:
        pieces: The work.
        jobs: Number of processes, as joblib takes it: -1 is one for each core.
        what: Text before the progress line.

    Raises:
        CompareError: As the first piece that fails; the others keep what they made.
    """
    done = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(joblib.delayed(piece)() for piece in pieces)
    for _ in progress(done, what, unit="piece", total=len(pieces)):
        pass


def say(text: str) -> None:
    """Tell the user, on standard error."""
    print(text, file=sys.stderr, flush=True)


def finished(script: str, options: argparse.Namespace, name: str, make: Callable[[], object]) -> int:
    """Make the document; say where it is, what the user can mend, or how to go on.

    Args:
        script: The script's file, for messages.
        options: With the folders ``run`` and ``out``.
        name: Of the document's file in ``out``, without its ending.
        make: Does what is not there yet, and writes the document.

    Returns:
        The exit status: 0 if all is well, 2 for what the user can mend, 130 for an interruption.
    """
    document = options.out / f"{name}.md"

    def checked() -> None:
        check_writable(document)  # before hours of work
        make()

    try:
        status = told(script, checked)
    except KeyboardInterrupt:
        say(f"interrupted: what is finished is kept in {options.run}; the same command goes on from there")
        return 130
    if status == 0:
        say(f"wrote {document}")
    return status


def told(script: str, make: Callable[[], object]) -> int:
    """Do something; say what the user can mend.

    Args:
        script: The script's file, for messages.
        make: What is done.

    Returns:
        The exit status: 0 if all is well, 2 for what the user can mend.
    """
    try:
        make()
    except CompareError as error:
        say(f"{script}: error: {error}")
        return 2
    return 0
