"""The pieces of the study of level sets on images: strings and bands between networks of both precisions."""

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from topology_tasks import Described, Task
from torch import nn

from compare.data import Data, load_data
from compare.data.split import reduced
from compare.family import Family, families
from compare.params import Params, parameters
from compare.runs.part import Treatment
from compare.runs.strings import Strings
from compare.runs.topology import COPY, Band
from compare.seeds import derived
from compare.strings import NORM, Lowering, NetworkLandscape, StringSettings, recorded, sample_string, sample_strings
from compare.strings.band import BandSettings, elastic_band
from compare.symmetry import random_element, trace
from compare.treatments import treated

LOWERING = Lowering(steps=1500, batch=100)
SETTINGS = StringSettings(points=21, finer=2, depth=7, beads=60)
BAND = BandSettings(beads=7, sweeps=40, learning_rate=0.3)


@dataclass(frozen=True)
class Images:
    """Networks on a data set, trained down to the first level.

    Attributes:
        data: Data set.
        fingerprint: Of its files.
        images: Training images, on all of which energies are measured.
        inputs: Numbers in one image.
        classes: Number of classes.
        calibration: How many of them statistics are re-estimated on.
        hidden: Units of each hidden layer.
        levels: Training errors, falling.
        root: Folder of the data set's files; no part of the identity.
    """

    data: str
    fingerprint: str
    images: int
    inputs: int
    classes: int
    calibration: int
    hidden: tuple[int, ...]
    levels: tuple[float, ...]
    lowering: Lowering = LOWERING
    settings: StringSettings = SETTINGS
    band: BandSettings = BAND
    root: Path | None = None

    @property
    def shape(self) -> str:
        """Widths of all layers, as they are written."""
        return " - ".join(map(str, (self.inputs, *self.hidden, self.classes)))

    def described(self) -> dict[str, Any]:
        """Plain values, all that determines the numbers."""
        return {name: value for name, value in asdict(self).items() if name != "root"}


@dataclass(frozen=True)
class _Between(Described):
    images: Images
    precision: str
    pair: tuple[int, int]
    treatment: Treatment

    def described(self) -> dict[str, Any]:
        """See ``Task``."""
        return super().described() | {"images": self.images.described()}

    @property
    def _named(self) -> str:
        return f"{self.precision}-{self.pair[0]}-{self.pair[1]}-{self.treatment.replace(' ', '-')}"

    @property
    def _networks(self) -> tuple[str, str]:
        return f"seed {self.pair[0]}", f"seed {self.pair[1]}"


@dataclass(frozen=True)
class ImageString(_Between):
    """Strings between two networks, down the levels."""

    @property
    def kind(self) -> type[Strings]:
        """See ``Task``."""
        return Strings

    @property
    def name(self) -> str:
        """See ``Task``."""
        return f"string-{self._named}"

    def piece(self) -> Strings:
        """See ``Task``."""
        seed = derived(self.precision, *self.pair)
        found = sample_strings(
            _landscape(self.images, self.precision),
            *_ends(self.images, self.precision, self.pair)[self.treatment],
            self.images.levels,
            settings=self.images.settings,
            seed=seed,
        )
        return Strings(
            **self.about(self.precision),
            task=self.images.data,
            networks=self._networks,
            treatment=self.treatment,
            energy="fraction of misclassified samples",
            split="train",
            samples=self.images.images,
            statistics="re-estimated",
            norm=NORM,
            seed=seed,
            levels=tuple(map(recorded, found)),
            settings=self.described(),
        )


@dataclass(frozen=True)
class ImageBand(_Between):
    """A band between two networks of the first level."""

    @property
    def kind(self) -> type[Band]:
        """See ``Task``."""
        return Band

    @property
    def name(self) -> str:
        """See ``Task``."""
        return f"band-{self._named}"

    def piece(self) -> Band:
        """See ``Task``."""
        landscape = _landscape(self.images, self.precision)
        a, b = _ends(self.images, self.precision, self.pair)[self.treatment]
        seed = derived(self.precision, *self.pair)
        found = elastic_band(landscape, a, b, settings=self.images.band, seed=seed)
        first, last = landscape.energies(a, b, (0.0, 1.0))
        return Band(
            **self.about(self.precision),
            task=self.images.data,
            networks=self._networks,
            treatment=self.treatment,
            energy="fraction of misclassified samples",
            samples=self.images.images,
            ends=(first, last),
            straight=found.straight,
            maximum=found.maximum,
            length=found.length,
            distance=found.distance,
            norm=NORM,
            seed=seed,
            seconds=found.cost.seconds,
            settings=self.described(),
        )


@dataclass(frozen=True)
class ImageCopy(Described):
    """A string without beads between a network and a random symmetric copy of it, at the network's own error."""

    images: Images
    precision: str
    seed: int
    treatment: Treatment

    @property
    def kind(self) -> type[Strings]:
        """See ``Task``."""
        return Strings

    @property
    def name(self) -> str:
        """See ``Task``."""
        return f"copy-{self.precision}-{self.seed}-{self.treatment.replace(' ', '-')}"

    def described(self) -> dict[str, Any]:
        """See ``Task``."""
        return super().described() | {"images": self.images.described()}

    def piece(self) -> Strings:
        """See ``Task``."""
        landscape = _landscape(self.images, self.precision)
        a, b = _copied(self.images, self.precision, self.seed)[self.treatment]
        (own,) = landscape.energies(a, a, (0.0,))
        # Rounding may turn one sample that is on the edge between two classes.
        level = own + 1.5 / self.images.images
        settings = replace(self.images.settings, depth=0, tolerance=0.0)
        return Strings(
            **self.about(self.precision),
            task=COPY,
            networks=(f"seed {self.seed}", "its copy"),
            treatment=self.treatment,
            energy="fraction of misclassified samples",
            split="train",
            samples=self.images.images,
            statistics="re-estimated",
            norm=NORM,
            seed=self.seed,
            levels=(recorded(sample_string(landscape, a, b, level, settings=settings, seed=self.seed)),),
            settings={**self.described(), "levels": (level,), "settings": asdict(settings)},
        )


@functools.cache
def image_data(name: str, images: int, calibration: int, root: Path | None) -> Data:
    """The data set, reduced."""
    return reduced(load_data(name, root=root), images, calibration=calibration)


@functools.cache
def _landscape(images: Images, precision: str) -> NetworkLandscape:
    data, family, model = _site(images, precision)
    return NetworkLandscape(
        model, family.recipe, data.train, energy="error", lowering=images.lowering, evaluation=family.evaluation
    )


def _site(images: Images, precision: str) -> tuple[Data, Family, nn.Module]:
    data = image_data(images.data, images.images, images.calibration, images.root)
    family = families((precision,))[precision]
    return data, family, _network(images, family)


def _network(images: Images, family: Family) -> nn.Module:
    return family.networks["mlp"](images.inputs, images.hidden, images.classes)


@functools.cache
def _ends(images: Images, precision: str, pair: tuple[int, int]) -> Mapping[Treatment, tuple[Params, Params]]:
    data, family, model = _site(images, precision)
    a, b = (_trained(images, precision, seed) for seed in pair)
    plain = family.plain(model, data.train.x[:16]).eval()
    return treated(trace(plain, data.train.x[:16], family), a, b, seed=derived(*pair)).ends


@functools.cache
def _copied(images: Images, precision: str, seed: int) -> Mapping[Treatment, tuple[Params, Params]]:
    data, family, model = _site(images, precision)
    graph = trace(family.plain(model, data.train.x[:16]).eval(), data.train.x[:16], family)
    a = _trained(images, precision, seed)
    copied = random_element(graph, torch.Generator().manual_seed(derived(seed, "copy"))).apply(a)
    return treated(graph, a, copied, seed=derived(seed, "matching")).ends


@functools.cache
def _trained(images: Images, precision: str, seed: int) -> Params:
    """Down to the first level from a start of its own, as beads are."""
    _, family, _ = _site(images, precision)
    torch.manual_seed(derived(seed, "start"))
    start = parameters(_network(images, family))
    landscape = _landscape(images, precision)
    return landscape.lower(start, images.settings.alpha * images.levels[0], seed=derived(seed, "end")).params


def image_tasks(images: Images, networks: int) -> Iterator[Task]:
    """Strings and bands between all pairs, under all treatments, in both precisions; and copies of each network."""
    treatments: tuple[Treatment, ...] = ("as trained", "standard form", "matched")
    for kind in (ImageString, ImageBand):
        for precision in ("binary", "full"):
            for pair in itertools.combinations(range(networks), 2):
                yield from (kind(images, precision, pair, treatment) for treatment in treatments)
    for precision, seed in itertools.product(("binary", "full"), range(networks)):
        yield from (ImageCopy(images, precision, seed, treatment) for treatment in treatments[1:])
