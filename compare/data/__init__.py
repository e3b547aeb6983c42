"""Data sets with fixed, seeded splits, never augmented: embedded, read from standard formats, or fetched."""

import lazy_loader

# Lazily, so that `compare.data.names` can be imported without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
