"""Dynamic string sampling, breadth first [Topology] (Freeman and Bruna, arXiv 1611.01540)."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from compare.params import Params, check, check_same_types, digest
from compare.runs.files import check_writable, sole_writer
from compare.strings.crew import Crew
from compare.strings.landscape import Landscape, StringError
from compare.strings.search import Search, Stage
from compare.strings.settings import StringSettings
from compare.strings.store import FILE, Kept, Store
from compare.strings.string import String


def sample_string(
    landscape: Landscape,
    a: Params,
    b: Params,
    level: float,
    *,
    settings: StringSettings | None = None,
    seed: int = 0,
    jobs: int = 1,
    folder: Path | None = None,
    describe: str | None = None,
) -> String:
    """Search for a string of networks from ``a`` to ``b`` that stays below a level of energy.

    As ``sample_strings`` with one level, which tells of arguments and errors.

    Returns:
        The string.
    """
    (string,) = sample_strings(
        landscape, a, b, (level,), settings=settings, seed=seed, jobs=jobs, folder=folder, describe=describe
    )
    return string


def sample_strings(
    landscape: Landscape,
    a: Params,
    b: Params,
    levels: Sequence[float],
    *,
    settings: StringSettings | None = None,
    seed: int = 0,
    jobs: int = 1,
    folder: Path | None = None,
    describe: str | None = None,
) -> tuple[String, ...]:
    """Search for strings from ``a`` to ``b`` below each of several levels, from the highest to the lowest.

    At each level the ends are trained down to it where they are above, and given beads to alpha times the level (one
    that cannot be is left out). Then, generation by generation: a segment on whose grid some energy exceeds
    (1 + tolerance) times the level gets a bead, which is trained down to alpha times the level, and both new segments
    are measured in turn. All segments pass: connected. A bead that does not come down, or a limit of depth or of beads:
    not shown connected, which never means that there is no such string.

    Args:
        landscape: The energy, and how beads are trained.
        a: Start, parameters and buffers by name; not changed.
        b: End.
        levels: Positive energies, falling.
        settings: How to search; without them the defaults.
        seed: Seeds of beads are derived from it and from their places in the string.
        jobs: Processes that measure and train at a time, as joblib takes it; the result is the same for any number.
            Landscapes of Brevitas models cannot be sent to other processes.
        folder: Where the search is kept after each generation. One that is there is taken up, and gives the same bits
            as without interruption.
        describe: Text before the progress line; None shows none.

    Returns:
        A string for each level, up to the first that is not shown connected: lower ones would be harder.

    Raises:
        StringError: For levels that make no schedule, for ``jobs=0``, or for several processes if the landscape cannot
            be sent to them.
        ParameterError: If ``b`` does not fit ``a``, both do not fit the landscape, or a number is not finite.
        TrainingError: If the loss of a bead becomes NaN or infinite.
        StoreError: If the folder holds another search, or a damaged one.
        OutputError: If the folder cannot be written, or another process is at work in it.
    """
    settings, levels = settings or StringSettings(), tuple(map(float, levels))
    _check(a, b, levels)
    crew = Crew(landscape, jobs)
    searches = [Search(crew, settings, level, number, seed) for number, level in enumerate(levels)]
    if folder is None:
        return _found(searches, a, b, None, describe)
    check_writable(folder / FILE)
    folder.mkdir(parents=True, exist_ok=True)
    identity = {
        **landscape.described(),
        "ends": [digest(a), digest(b)],
        "levels": levels,
        "search": asdict(settings),
        "seed": seed,
    }
    with sole_writer(folder):
        return _found(searches, a, b, Store(folder, identity, settings, seed), describe)


def _found(
    searches: Sequence[Search], a: Params, b: Params, store: Store | None, describe: str | None
) -> tuple[String, ...]:
    kept = store.read() if store else Kept()
    strings, stage = kept.strings, kept.stage
    # disable=None: quiet unless standard error is a terminal.
    bar = tqdm(desc=describe, unit="level", disable=None if describe else True, leave=False, dynamic_ncols=True,
               initial=len(strings), total=len(searches))  # fmt: skip
    with bar:
        while len(strings) < len(searches) and all(string.connected for string in strings):
            search = searches[len(strings)]
            stage = stage or search.begun(a, b, strings)
            while not stage.over:
                bar.set_postfix_str(_told(search, stage))
                stage = search.next(stage)
                if store:
                    store.write(Kept(strings, stage))
            strings, stage = (*strings, search.finished(stage)), None
            bar.update()
            if store:
                store.write(Kept(strings))
    return strings


def _told(search: Search, stage: Stage) -> str:
    unknown = sum(not segment.passed for segment in stage.segments)
    return f"level {search.level:.3g}: {len(stage.beads) - 2} beads, {unknown} segments to measure"


def _check(a: Params, b: Params, levels: Sequence[float]) -> None:
    if not levels or not all(0 < level < math.inf for level in levels):
        raise StringError(
            f"levels: expected at least one, all positive and finite, got {', '.join(map(str, levels)) or 'none'}; "
            "for no error at all take half of one sample's share"
        )
    if any(level <= after for level, after in itertools.pairwise(levels)):
        raise StringError(f"levels: expected numbers that fall, got {', '.join(map(str, levels))}")
    check(a, a, what="a")
    check(b, a, what="b")
    check_same_types(a, b)
