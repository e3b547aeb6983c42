"""Time larq-compute-engine on one sample, for benchmark_packed.py: prints JSON, one entry for each size.

usage: PYTHON scripts/benchmark_larq.py ROUNDS CALLS SIZE...
example: larq-env/bin/python scripts/benchmark_larq.py 20 50 1024 4096

PYTHON is that of an environment of its own, made by `pip install larq-compute-engine larq tensorflow-cpu tf_keras`:
larq needs an older numpy than this project. There is no binary dense layer in it; a 1 x 1 convolution over one pixel
is one.
"""

import json
import os
import platform
import sys
import time
from importlib import metadata
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # larq was written for Keras 2
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np


def prepared(units: int) -> tuple[Any, np.ndarray]:
    """An interpreter of a layer ``units`` x ``units``, checked, and one sample."""
    import larq
    import larq_compute_engine as engine
    import tf_keras

    rng = np.random.default_rng(units)
    weight, x = (rng.choice(np.float32([-1, 1]), shape) for shape in ((1, 1, units, units), (1, 1, 1, units)))
    layer = larq.layers.QuantConv2D(units, 1, input_quantizer="ste_sign", kernel_quantizer="ste_sign", use_bias=False)
    model = tf_keras.models.Sequential([tf_keras.layers.Input((1, 1, units)), layer])
    layer.set_weights([weight])
    interpreter = engine.testing.Interpreter(engine.convert_keras_model(model), num_threads=1).interpreter
    (found,) = interpreter.predict([x])
    if not np.array_equal(found.reshape(-1), x.reshape(-1) @ weight[0, 0]):
        raise SystemExit(f"larq-compute-engine gives another result than the product for {units} units")
    return interpreter, x


def main() -> None:
    """Measure."""
    rounds, calls, *sizes = (int(word) for word in sys.argv[1:])
    found: dict[str, list[float]] = {}
    for units in sizes:
        interpreter, x = prepared(units)
        seconds = found[str(units)] = []
        for _ in range(rounds * calls):
            began = time.perf_counter()
            interpreter.predict([x])
            seconds.append(time.perf_counter() - began)
    versions = {name: metadata.version(name) for name in ("larq-compute-engine", "larq", "tensorflow-cpu", "numpy")}
    print(json.dumps({"seconds": found, "versions": versions, "python": platform.python_version()}))


if __name__ == "__main__":
    main()
