"""What a reader of a study must know before its numbers: whose claims, what is measured, what 'flat' means."""

from collections.abc import Sequence

from compare.runs.study import Study

NUMBERS = (
    "Numbers are mean ± standard deviation, or mean [95 % interval over networks]; a single value has neither, nor has "
    "a mean over fewer than 3 networks of an algorithm an interval. 0 without decimals is exactly zero, every time."
)


def introduction(studies: Sequence[Study]) -> tuple[str, ...]:
    """Paragraphs under the title; links are those of a document in ``docs/results``."""
    bent = any(study.bends for study in studies)
    return (
        "Pittorino et al. ([Deep Networks on Toroids](https://arxiv.org/abs/2202.03038)) claim of neural networks that "
        "flatter minima err less on new samples; that, once symmetries are removed, they lie closer together with "
        "lower barriers between them; that barriers fall when symmetries are removed; that a path with one bend joins "
        "two minima at no training error; and all this, qualitatively, of binary networks, too. Here each claim is a "
        "number with an interval, which may refute it.",
        "Networks are trained with several [algorithms](../algorithms.md), which seek flat minima, sharp ones, or "
        "neither; those of one algorithm differ in their seed alone. Measured are the errors of each network and "
        "how flat its minimum is, for each two networks their distance and the errors on paths between them"
        + (", and for some a trained [path with one bend](../bends.md)." if bent else "."),
        "A minimum is flat if the error rises little when the weights change. How much it rises for random noise on "
        "the weights is the local energy; other measures are its rise when bits flip, its rise at the worst network "
        "near by, and the curvature of the loss ([flatness](../flatness.md)). The larger the number, the sharper the "
        "minimum.",
        *(_BINARY if any(network.flips for study in studies for network in study.networks) else ()),
    )


_BINARY = (
    "The weights of a binary network are the signs of latent weights, real numbers that are trained by gradients "
    "which pass straight through the sign. On paths between binary networks the latent weights are interpolated, then "
    "binarised. Each bit that differs flips once, and the latent weights decide when: of all orders of flips only this "
    "one, the latent path, is in the study. Random and greedy orders are compared with it, every network counted, in "
    "[the exact landscape](exact.md) ([how](../exact.md)).",
)
