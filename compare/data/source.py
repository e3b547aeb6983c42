"""What every reader of a format returns: pixels and labels as they are stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from compare.errors import CompareError

Pixels: TypeAlias = npt.NDArray[np.uint8]
Labels: TypeAlias = npt.NDArray[np.int64]


class DataError(CompareError, ValueError):
    """A data set that is unknown, missing, or damaged; the message names the file and the defect."""


@dataclass(frozen=True, eq=False)
class Images:
    """Images as they are stored.

    Attributes:
        pixels: ``[samples, channels, height, width]``.
        labels: Class indices ``[samples]``.
    """

    pixels: Pixels
    labels: Labels

    def __getitem__(self, chosen: npt.NDArray[np.int64]) -> "Images":
        """The images at the indices ``chosen``, in that order."""
        return Images(self.pixels[chosen], self.labels[chosen])


@dataclass(frozen=True, eq=False)
class Source:
    """A data set as it is stored, before pixels become network inputs.

    Attributes:
        name: The name that goes into records.
        train: Training images.
        test: Test images, of the same shape.
        classes: Number of classes.
        largest: The largest value a pixel can take.
    """

    name: str
    train: Images
    test: Images
    classes: int
    largest: int = 255


def check_labels(labels: Labels, classes: int, where: str) -> None:
    """Raise unless every label is a class index.

    Args:
        labels: ``[samples]``.
        classes: Number of classes.
        where: The file, for the message.

    Raises:
        DataError: Naming the file, and the place and value of the first wrong label.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{where}: expected labels from 0 to {classes - 1}, got {int(labels[first])} at sample {first} "
            f"({len(wrong)} of {len(labels)} are out of range); replace the file by an undamaged copy"
        )


def stratified_halves(images: Images, *, seed: int, classes: Sequence[str], where: str) -> tuple[Images, Images]:
    """Split into 80 % training and 20 % test images, class by class.

    Args:
        images: All images.
        seed: The same seed gives the same split.
        classes: Name of each class, for the message.
        where: What is split, for the message.

    Returns:
        Training and test images, each in the order of ``images``; at least one image of every class in each.

    Raises:
        DataError: If a class has fewer than 2 images.

    Example:
        >>> images = Images(np.zeros((20, 1, 2, 2), np.uint8), np.repeat(np.arange(2), 10))
        >>> train, test = stratified_halves(images, seed=0, classes="ab", where="an example")
        >>> np.bincount(train.labels), np.bincount(test.labels)
        (array([8, 8]), array([2, 2]))
    """
    generator = np.random.default_rng(seed)
    held_out = np.zeros(len(images.labels), dtype=bool)
    for label in np.unique(images.labels):
        members = np.flatnonzero(images.labels == label)
        if len(members) < 2:
            raise DataError(
                f"{where}: class '{classes[label]}' has 1 image, expected at least 2: one to train and one to test on"
            )
        held_out[generator.permutation(members)[: max(1, round(len(members) / 5))]] = True
    return images[np.flatnonzero(~held_out)], images[np.flatnonzero(held_out)]
