"""Where numbers come from: code revision, package versions, machine, command."""

import datetime
import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from compare.runs.record import Provenance

PACKAGES = ("binarynets", "torch", "brevitas", "numpy", "scipy", "safetensors", "scikit-learn", "pydantic")


def provenance(*, threads: int, command: str | None = None) -> Provenance:
    """Describe this process: enough to run it again elsewhere.

    Args:
        threads: Threads that torch uses.
        command: The command line, without paths of this machine; None for calls from Python.

    Returns:
        Time (UTC), revision of the code, versions.
    """
    return Provenance(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        revision=revision(),
        command=command,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        threads=threads,
        packages={name: _version(name) for name in PACKAGES},
    )


def revision() -> str:
    """The commit of the code, with ``+changes`` where the working tree differs; the version where it is no checkout."""
    file = Path(__file__).resolve()
    here = file.parents[2]
    installed = f"binarynets {_version('binarynets')}, not a checkout"
    try:
        # Installed into an environment inside somebody else's repository, git would tell of that one.
        if Path(_git(here, "rev-parse", "--show-toplevel")).resolve() != here:
            return installed
        _git(here, "ls-files", "--error-unmatch", str(file))
        commit = _git(here, "rev-parse", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return installed
    return commit + ("+changes" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    # The arguments are fixed words; git is looked up on the caller's own PATH.
    done = subprocess.run(  # noqa: S603
        ["git", "-C", str(folder), *arguments],  # noqa: S607
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
        env=environment,
    )
    return done.stdout.strip()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "processor not known"


def command_line() -> str:
    """The command as typed, absolute paths by their last part alone: they say nothing on another machine."""
    program = Path(sys.argv[0])
    of_script = program.suffix == ".py" and program.name != "__main__.py"
    words = ["python", *sys.argv] if of_script else ["compare-nets", *sys.argv[1:]]
    return shlex.join(f".../{Path(word).name}" if Path(word).is_absolute() else word for word in words)
