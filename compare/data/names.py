"""Names of the data sets, importable without torch."""

DATA_SETS = ("digits", "mnist", "fashion-mnist", "cifar10", "images")
