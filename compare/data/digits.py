"""The handwritten digits embedded in scikit-learn: 1,797 images of 8 x 8 pixels from 0 to 16."""

import numpy as np

from compare.data.source import Images, Source, stratified_halves


def read_digits(*, seed: int) -> Source:
    """The digits, 80 % of each class to train and 20 % to test on.

    Args:
        seed: Of the split.

    Returns:
        The data set. Source: E. Alpaydin, C. Kaynak, 'Optical Recognition of Handwritten Digits', UCI, 1998 (its test
        part, as scikit-learn ships it).
    """
    from sklearn.datasets import load_digits

    stored = load_digits()
    images = Images(stored.images.astype(np.uint8)[:, None], stored.target.astype(np.int64))
    train, test = stratified_halves(images, seed=seed, classes="0123456789", where="digits")
    return Source("digits", train, test, classes=10, largest=16)
