"""Brevitas models: read as they are, analysed like any other network, converted and exported.

Importing this imports Brevitas; ``import binarynets`` does not.
"""

from binarynets.brevitas.checks import load_state, settled
from binarynets.brevitas.convert import from_brevitas, from_brevitas_params, to_brevitas
from binarynets.brevitas.errors import BrevitasError
from binarynets.brevitas.export import Exported, export_qonnx
from binarynets.brevitas.family import FAMILY, INT2, INT4, INT8, TERNARY
from binarynets.brevitas.landscape import Counterpart, counterpart
from binarynets.brevitas.plain import effective, plain

__all__ = [
    "FAMILY",
    "INT2",
    "INT4",
    "INT8",
    "TERNARY",
    "BrevitasError",
    "Counterpart",
    "Exported",
    "counterpart",
    "effective",
    "export_qonnx",
    "from_brevitas",
    "from_brevitas_params",
    "load_state",
    "plain",
    "settled",
    "to_brevitas",
]
