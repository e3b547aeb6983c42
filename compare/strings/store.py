"""Searches kept in a folder after each generation, and taken up again with the same bits."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from compare.errors import CompareError
from compare.params import Params, digest
from compare.runs.files import write_bytes, write_text
from compare.strings.search import Segment, Stage
from compare.strings.settings import StringSettings
from compare.strings.string import Bead, Cost, String

FILE = "search.json"
NETWORKS = "networks"


class StoreError(CompareError, ValueError):
    """A folder that holds another search, or a damaged one."""


@dataclass(frozen=True, eq=False)
class Kept:
    """A search as it is kept.

    Attributes:
        strings: Those of the levels that are finished.
        stage: Where the level after them stands; None where it has not begun or there is none.
    """

    strings: tuple[String, ...] = ()
    stage: Stage | None = None


@dataclass(frozen=True, eq=False)
class Store:
    """A folder for one search.

    Networks lie in files of their own, named by their digest and written once; ``search.json``, which names them, is
    written last and in one step.

    Attributes:
        folder: The folder.
        identity: All that determines the search, plain values.
        settings: The search's, for the strings that are read.
        seed: The search's.
    """

    folder: Path
    identity: Mapping[str, Any]
    settings: StringSettings
    seed: int

    def read(self) -> Kept:
        """What is kept, nothing for a folder without a search.

        Raises:
            StoreError: If the folder holds another search, or a file is damaged.
        """
        file = self.folder / FILE
        if not os.path.exists(file):
            return Kept()
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            self._check(found["identity"])
            stage = found["stage"]
            return Kept(tuple(self._string(entry) for entry in found["strings"]), stage and self._stage(stage))
        except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(
                f"{file} is no search that can be read ({error}): remove {self.folder}, it is made again"
            ) from error

    def write(self, kept: Kept) -> None:
        """Keep a search, whole or not at all.

        Raises:
            OutputError: If it cannot be written; what was kept before is still there.
        """
        content = {
            "identity": self.identity,
            "strings": [self._of_string(string) for string in kept.strings],
            "stage": kept.stage and self._of_stage(kept.stage),
        }
        write_text(self.folder / FILE, json.dumps(content, indent=1) + "\n")

    def _check(self, found: Mapping[str, Any]) -> None:
        expected = json.loads(json.dumps(self.identity))  # as JSON gives it back: tuples become lists
        if found != expected:
            differing = sorted(k for k in found.keys() | expected.keys() if found.get(k) != expected.get(k))
            raise StoreError(
                f"{self.folder} holds another search ({', '.join(differing)} differ): choose another folder, or "
                "remove it"
            )

    def _of_string(self, string: String) -> dict[str, Any]:
        plain = {name: getattr(string, name) for name in _PLAIN}
        return {**plain, "beads": self._of_beads(string.beads), "cost": asdict(string.cost)}

    def _string(self, entry: Mapping[str, Any]) -> String:
        return String(
            level=entry["level"],
            beads=self._beads(entry["beads"]),
            faults=tuple(entry["faults"]),
            maxima=tuple(entry["maxima"]),
            finer_maxima=tuple(entry["finer_maxima"]),
            generations=entry["generations"],
            cost=Cost(**entry["cost"]),
            length=entry["length"],
            distance=entry["distance"],
            settings=self.settings,
            seed=self.seed,
        )

    def _of_stage(self, stage: Stage) -> dict[str, Any]:
        return {
            "beads": self._of_beads(stage.beads),
            "segments": [asdict(segment) for segment in stage.segments],
            "faults": stage.faults,
            "generations": stage.generations,
            "cost": asdict(stage.cost),
        }

    def _stage(self, entry: Mapping[str, Any]) -> Stage:
        return Stage(
            beads=self._beads(entry["beads"]),
            segments=tuple(Segment(**segment) for segment in entry["segments"]),
            faults=tuple(entry["faults"]),
            generations=entry["generations"],
            cost=Cost(**entry["cost"]),
        )

    def _of_beads(self, beads: Sequence[Bead]) -> list[dict[str, Any]]:
        found = []
        for bead in beads:
            name = digest(bead.params)
            if not os.path.exists(self._file(name)):
                # Views of other tensors, as torch.lerp of expanded ones gives, are not written otherwise.
                write_bytes(
                    self._file(name), save({k: t.detach().clone().contiguous() for k, t in bead.params.items()})
                )
            found.append({"network": name, "energy": repr(bead.energy), "inserted": bead.inserted})
        return found

    def _beads(self, entries: Sequence[Mapping[str, Any]]) -> tuple[Bead, ...]:
        return tuple(Bead(self._params(e["network"]), float(e["energy"]), e["inserted"]) for e in entries)

    def _params(self, name: str) -> Params:
        params: Params = load(self._file(name).read_bytes())
        if digest(params) != name:
            raise StoreError(f"{self._file(name)} is damaged: remove {self.folder}, it is made again")
        return params

    def _file(self, name: str) -> Path:
        return self.folder / NETWORKS / f"{name}.safetensors"


_PLAIN = ("level", "faults", "maxima", "finer_maxima", "generations", "length", "distance")
