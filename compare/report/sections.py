"""What may stand side by side: records of the same data and model, one group for each precision."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from compare.errors import CompareError
from compare.runs.configuration import Training
from compare.runs.landscape import ExactCurve, Landscape, Neighbourhood, Robustness
from compare.runs.record import (
    Control,
    ControlName,
    Curve,
    Data,
    Energy,
    Network,
    PathKind,
    Record,
    SplitName,
    Statistics,
    Treatment,
)

_T = TypeVar("_T")
_Around = TypeVar("_Around", Neighbourhood, Robustness, Energy)


class ReportError(CompareError, ValueError):
    """Something a report cannot be made of."""


@dataclass(frozen=True)
class Group:
    """The records of one precision that may be averaged: same data, model, training settings and points.

    Attributes:
        label: The precision's name, followed by what tells it from other groups of that precision, if there are any.
        records: One for each pair of networks and seed of the measurement, none twice.
        repeats: How many records were left out, since they repeat one of ``records``.
    """

    label: str
    records: tuple[Record, ...]
    repeats: int = 0

    @property
    def networks(self) -> tuple[Network, ...]:
        """Each network once, however many pairs it is in.

        Names are free ("a", "b"), so what was recorded of the training counts too, or else errors and losses.
        """
        return tuple(_distinct((network for record in self.records for network in record.networks), _identity))

    @property
    def bits(self) -> float | None:
        """Bits of a weight; None where no record says (those of version 1 and 2 do not)."""
        return next((record.bits for record in self.records if record.bits is not None), None)

    @property
    def energies(self) -> tuple[tuple[Network, Energy], ...]:
        """Each local energy once, with its network: pairs that share a network repeat the same one."""
        found = ((r.networks["ab".index(energy.network)], energy) for r in self.records for energy in r.energies)
        return _once(found)

    def curves(
        self, treatment: Treatment, path: PathKind, statistics: Statistics, split: SplitName
    ) -> tuple[Curve, ...]:
        """One curve for each pair that has it."""
        found = (
            find(record.curves, treatment=treatment, path=path, statistics=statistics, split=split)
            for record in self.records
        )
        return tuple(curve for curve in found if curve is not None)

    def controls(self, name: ControlName) -> tuple[Control, ...]:
        """Each null control once: pairs with the same first network and seed repeat the same one."""
        return tuple(_distinct(one for record in self.records for one in record.controls if one.name == name))

    @property
    def landscapes(self) -> tuple[Landscape, ...]:
        """What was counted exactly, one for each pair that has it."""
        return tuple(record.landscape for record in self.records if record.landscape is not None)

    @property
    def exact_curves(self) -> tuple[ExactCurve, ...]:
        """The exact curves of all pairs."""
        return tuple(curve for landscape in self.landscapes for curve in landscape.curves)

    @property
    def neighbourhoods(self) -> tuple[tuple[Network, Neighbourhood], ...]:
        """Each neighbourhood once, with its network: pairs with the same first network repeat the same one."""
        return self._around(lambda landscape: landscape.neighbourhoods)

    @property
    def robustness(self) -> tuple[tuple[Network, Robustness], ...]:
        """Each robustness curve once, with its network, as neighbourhoods."""
        return self._around(lambda landscape: landscape.robustness)

    def _around(self, parts: Callable[[Landscape], Sequence[_Around]]) -> tuple[tuple[Network, _Around], ...]:
        found = (
            (record.networks["ab".index(part.network)], part)
            for record in self.records
            if record.landscape is not None
            for part in parts(record.landscape)
        )
        return _once(found)


@dataclass(frozen=True)
class Section:
    """What is compared: all precisions of one model on one data set.

    Attributes:
        data: The data set, its sizes and what was measured of it.
        model: The shape of the network.
        groups: One for each precision (and way of training), in the order of the records.
    """

    data: Data
    model: str
    groups: tuple[Group, ...]


def sections(records: Iterable[Record]) -> tuple[Section, ...]:
    """Sort records into what may be compared; records of the same pair, measured the same way, count once.

    Args:
        records: Any precisions, data sets and models.

    Returns:
        One section for each data set (as it was measured) and model, in the order of the records.

    Raises:
        ReportError: If there is no record, or something else among them.
    """
    found = _checked(records)
    parts = _split(found, lambda record: f"{record.data.model_dump_json()} {record.model}")
    return tuple(Section(part[0].data, part[0].model, _groups(part)) for part in parts)


def find(
    curves: Sequence[Curve],
    *,
    treatment: Treatment,
    path: PathKind = "linear",
    statistics: Statistics = "interpolated",
    split: SplitName = "train",
) -> Curve | None:
    """The curve of that kind, or None where it was not measured."""
    wanted = (treatment, path, statistics, split)
    return next((c for c in curves if (c.treatment, c.path, c.statistics, c.split) == wanted), None)


def pair_name(record: Record) -> str:
    """The two networks of a record: ``seed 0 and seed 1``."""
    return " and ".join(network.name for network in record.networks)


def _checked(records: Iterable[Record]) -> list[Record]:
    found = list(records)
    for record in found:
        if not isinstance(record, Record):
            raise ReportError(
                f"expected records, as compare.read_record or compare.connect gives them, got {type(record).__name__}"
            )
    if not found:
        raise ReportError("expected at least one record, got none: run `compare-nets run` to make some")
    return found


def _groups(records: Sequence[Record]) -> tuple[Group, ...]:
    groups = []
    for same in _split(records, lambda record: record.precision):
        variants = _split(same, lambda record: str(sorted(_setup(record).items())))
        setups = [_setup(variant[0]) for variant in variants]
        groups += [_group(_label(v[0].precision, s, setups), v) for v, s in zip(variants, setups, strict=True)]
    return tuple(groups)


def _group(label: str, records: Sequence[Record]) -> Group:
    # Data, points and training settings agree within a group: the seed of the measurement is all that is left.
    # Of repeats the one that has a landscape says most, then one that has energies (older versions have neither).
    richest = sorted(records, key=lambda record: (record.landscape is None, not record.energies))
    kept = _distinct(richest, lambda record: (*map(_identity, record.networks), record.seed))
    return Group(label, tuple(kept), repeats=len(records) - len(kept))


def _setup(record: Record) -> dict[str, str]:
    """What must agree before pairs are averaged, beside data, model and precision."""
    configuration = record.configuration or {}
    whole, ends = configuration.get("training"), (configuration.get("a"), configuration.get("b"))
    trained: list[Mapping[str, Any]] = [part for part in (whole, *ends) if isinstance(part, Mapping)]
    names = [name for name in Training.model_fields if any(name in part for part in trained)]
    settings = {name: " / ".join(dict.fromkeys(str(part.get(name)) for part in trained)) for name in names}
    return {"points": str(max((len(curve.ts) for curve in record.curves), default=0)), **settings}


def _label(precision: str, setup: Mapping[str, str], setups: Sequence[Mapping[str, str]]) -> str:
    names = dict.fromkeys(name for other in setups for name in other)
    differing = [name for name in names if len({other.get(name) for other in setups}) > 1]
    if not differing:
        return precision
    shown = ", ".join(f"{name} {setup.get(name, 'not recorded')}" for name in differing)
    return f"{precision} ({shown})"


def _split(items: Iterable[_T], key: Callable[[_T], str]) -> list[list[_T]]:
    """Lists of items with equal keys, in the order of their first items."""
    parts: dict[str, list[_T]] = {}
    for item in items:
        parts.setdefault(key(item), []).append(item)
    return list(parts.values())


def _distinct(items: Iterable[_T], key: Callable[[_T], Any] = lambda item: item) -> list[_T]:
    """Items with equal keys once, in order; parts of records cannot be hashed."""
    found: list[_T] = []
    keys: list[Any] = []
    for item in items:
        if (one := key(item)) not in keys:
            keys.append(one)
            found.append(item)
    return found


def _once(found: Iterable[tuple[Network, _Around]]) -> tuple[tuple[Network, _Around], ...]:
    # First in one pair, a network may be second in another.
    return tuple(_distinct(found, lambda one: (_identity(one[0]), one[1].model_copy(update={"network": "a"}))))


def _identity(network: Network) -> tuple[Any, ...]:
    # The same training takes another time on every run.
    history = tuple(epoch.model_dump(exclude={"seconds"}) for epoch in network.history)
    return network.name, network.seed, history or (network.errors, network.losses)
