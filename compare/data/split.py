"""Data sets as networks see them: integer pixels in float tensors, labels, and images to calibrate statistics on."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from compare.data.source import DataError, Images, Source
from compare.params import digest

CALIBRATION = 10_000


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a data set, or a part of it; never augmented.

    Attributes:
        x: Inputs, float32 ``[samples, channels, height, width]``: the integers 2p - (largest pixel value), so 2p - 255
            for 8-bit images. A binary network's first layer then sums integers, exactly.
        y: Class indices, int64 ``[samples]``.
        calibration: Training inputs to re-estimate normalisation statistics on, as ``x``, whichever split this is.
    """

    x: Tensor
    y: Tensor
    calibration: Tensor

    def __post_init__(self) -> None:
        """Raise a ``DataError`` unless there are as many labels as inputs."""
        if len(self.x) != len(self.y):
            raise DataError(
                f"a split takes one label for each input, got {len(self.x)} inputs and {len(self.y)} labels"
            )

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.x)

    def subset(self, n: int, seed: int = 0) -> "Split":
        """A part of the split that ``n`` and ``seed`` name for good.

        Of one seed, smaller parts lie within larger ones. The choice depends on nothing else, no global generator
        and no earlier call.

        Args:
            n: Number of samples, at least 1.
            seed: Which part.

        Returns:
            ``n`` samples in the order of the split, with the same calibration images; the split itself if it has no
            more than ``n``.

        Raises:
            DataError: If ``n`` is below 1.

        Example:
            >>> x = torch.arange(6.0).reshape(6, 1, 1, 1)
            >>> split = Split(x, torch.arange(6), calibration=x[:2])
            >>> part = split.subset(3)
            >>> len(part), part.y.tolist() == part.x.flatten().tolist()
            (3, True)
        """
        if n < 1:
            raise DataError(f"a subset takes at least 1 sample, got {n}")
        if n >= len(self):
            return self
        chosen = _shuffled(len(self), seed)[:n].sort().values
        return Split(self.x[chosen], self.y[chosen], self.calibration)


@dataclass(frozen=True, eq=False)
class Data:
    """A data set.

    Attributes:
        name: What goes into records; it tells variants apart ("cifar10", "cifar10-jpeg").
        train: Training split.
        test: Test split.
        classes: Number of classes.
        input_shape: Channels, height, width.
    """

    name: str
    train: Split
    test: Split
    classes: int
    input_shape: tuple[int, int, int]

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of a hash of all inputs and labels: equal only for equal data, whatever the name.

        Data sets are not changed once made: the hash is taken once.
        """
        tensors = {"train.x": self.train.x, "train.y": self.train.y, "test.x": self.test.x, "test.y": self.test.y}
        return digest(tensors)


def reduced(data: Data, n: int, *, calibration: int = CALIBRATION, test: int | None = None, seed: int = 0) -> Data:
    """The data set with fewer images, whose statistics are re-estimated on some of those that stay for training.

    Args:
        data: The data set; not changed.
        n: Training images that stay.
        calibration: How many of them statistics are re-estimated on, at most.
        test: Test images that stay; None for all.
        seed: Which stay, and which of them are for calibration; ``split.subset(k)`` chooses others first.

    Returns:
        A data set of the same name, whose fingerprint tells it from the whole.

    Raises:
        DataError: If ``n``, ``calibration`` or ``test`` is below 1.
    """
    if test is not None and test < 1:
        raise DataError(f"test: expected at least 1 image that stays, got {test}")
    if calibration < 1:
        raise DataError(f"calibration takes at least 1 image, got {calibration}")
    part = data.train.subset(n, seed)
    x = part.x[_shuffled(len(part), seed)[-calibration:].sort().values]
    left = data.test if test is None else data.test.subset(test, seed)
    return replace(data, train=Split(part.x, part.y, x), test=Split(left.x, left.y, x))


def as_data(source: Source, *, seed: int) -> Data:
    """Pixels to network inputs; see ``Split`` for their values.

    Args:
        source: The data set as it is stored.
        seed: Of the choice of calibration images.

    Returns:
        The data set; both splits share the calibration images.
    """
    x = _inputs(source.train, source.largest)
    calibration = _calibration(x, seed)
    channels, height, width = source.train.pixels.shape[1:]
    return Data(
        name=source.name,
        train=Split(x, _targets(source.train), calibration),
        test=Split(_inputs(source.test, source.largest), _targets(source.test), calibration),
        classes=source.classes,
        input_shape=(channels, height, width),
    )


def _inputs(images: Images, largest: int) -> Tensor:
    # In place on the fresh copy: CIFAR-10 takes 600 MB as float32, so no second one.
    return torch.tensor(images.pixels, dtype=torch.float32).mul_(2).sub_(largest)


def _targets(images: Images) -> Tensor:
    return torch.tensor(images.labels, dtype=torch.int64)


def _calibration(x: Tensor, seed: int) -> Tensor:
    if len(x) <= CALIBRATION:
        return x
    # The tail of the order whose head is `subset`: the two share no image while there are enough.
    return x[_shuffled(len(x), seed)[-CALIBRATION:].sort().values]


def _shuffled(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))
