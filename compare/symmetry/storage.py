"""Elements kept in files: permutations and diagonals, and what tells whether they belong to a network."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from compare.runs import write_bytes
from compare.symmetry.element import Element
from compare.symmetry.graph import Block, Graph, SymmetryError, Tie

_FORMAT = "compare element 1"


def save_element(path: Path | str, element: Element) -> None:
    """Write an element to a safetensors file, in one step.

    Args:
        path: The file, ``*.safetensors``; one that is there is replaced.
        element: It is kept exactly: permutations in int64, diagonals in float64.

    Raises:
        OutputError: If it cannot be written; nothing is left half written.

    Example:
        >>> import compare, fullprecision, tempfile
        >>> model = fullprecision.mlp(4, [6], 2)
        >>> graph = compare.trace(model, torch.randn(8, 4), fullprecision.FAMILY)
        >>> g = compare.random_element(graph, torch.Generator().manual_seed(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_element(Path(folder) / "g.safetensors", g)
        ...     load_element(Path(folder) / "g.safetensors", graph) == g
        True
    """
    tensors: dict[str, Tensor] = {}
    for index, (p, d) in enumerate(zip(element.permutations, element.diagonals, strict=True)):
        tensors[f"permutations.{index}"] = p.to(torch.int64).contiguous()
        tensors[f"diagonals.{index}"] = d.to(torch.float64).contiguous()
    metadata = {
        "format": _FORMAT,
        "blocks": json.dumps([_summary(block) for block in element.graph.blocks]),
        "fingerprint": _fingerprint(element.graph),
    }
    write_bytes(Path(path), save(tensors, metadata))


def load_element(path: Path | str, graph: Graph) -> Element:
    """Read an element that ``save_element`` wrote.

    Args:
        path: The file.
        graph: The network's symmetries, as they were when the element was saved: the same blocks, ties and generators.

    Returns:
        The element of ``graph``.

    Raises:
        SymmetryError: If there is no such file, it is damaged or something else, or it belongs to another network.
    """
    metadata, tensors = _read(Path(path))
    if metadata.get("format") != _FORMAT:
        raise SymmetryError(
            f"{path}: expected an element that save_element wrote ('{_FORMAT}'), got "
            f"{metadata.get('format') or 'another kind of file'!r}. Save it again with this version"
        )
    try:
        blocks = json.loads(metadata["blocks"])
        fingerprint = metadata["fingerprint"]
        _check_blocks(path, graph, blocks)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, SymmetryError):
            raise
        raise _damaged(Path(path), error) from error
    if fingerprint != _fingerprint(graph):
        raise SymmetryError(
            f"{path}: expected the element of a network whose blocks are tied as those of this graph, got one with the "
            "same sizes and other ties or generators. Trace the network that it was made for, with the same options"
        )
    try:
        found = [tuple(tensors[f"{kind}.{i}"] for i in range(len(blocks))) for kind in ("permutations", "diagonals")]
        return Element(graph, found[0], found[1])
    except (KeyError, RuntimeError, SymmetryError) as error:
        raise _damaged(Path(path), error) from error


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not os.path.exists(path):
        raise SymmetryError(f"{path} does not exist: expected an element's file, as save_element writes it")
    try:
        with open(path, "rb"):  # safetensors reports every failure to open as a missing file
            pass
    except OSError as error:
        raise SymmetryError(f"could not read {path}: {error.strerror}; expected an element's file") from error
    try:
        with safe_open(str(path), framework="pt") as opened:
            names = list(opened.keys())
            return opened.metadata() or {}, {name: opened.get_tensor(name) for name in names}
    except (SafetensorError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> SymmetryError:
    return SymmetryError(
        f"{path} is not an element's file ({error}). If it was one, it is damaged: save the element again"
    )


def _summary(block: Block) -> list[Any]:
    return [block.name, block.size, [generator.kind for generator in block.generators]]


def _check_blocks(path: Path | str, graph: Graph, blocks: list[Any]) -> None:
    expected = [_summary(block) for block in graph.blocks]
    if len(blocks) != len(expected):
        raise SymmetryError(
            f"{path}: expected an element of this network's {len(expected)} blocks, got one of {len(blocks)}. Trace "
            "the network that it was made for"
        )
    for ours, theirs in zip(expected, blocks, strict=True):
        if ours != theirs:
            raise SymmetryError(
                f"{path}: expected block {_shown(ours)}, got {_shown(theirs)}. Trace the network that it was made "
                "for, with the same options"
            )


def _shown(summary: list[Any]) -> str:
    name, size, kinds = summary
    return f"'{name}' of {size} units with generators ({', '.join(kinds) or 'none'})"


def _fingerprint(graph: Graph) -> str:
    """SHA-256 of all that gives an element its meaning: blocks in order, their ties and generators; no notes."""
    blocks = [
        [
            *_summary(block),
            block.parent,
            block.rigid,
            [_place(tie) for tie in block.ties],
            [[[_place(tie), power] for tie, power in generator.factors] for generator in block.generators],
        ]
        for block in graph.blocks
    ]
    return hashlib.sha256(json.dumps(blocks).encode()).hexdigest()


def _place(tie: Tie) -> list[Any]:
    return [tie.name, tie.axis, tie.start, tie.repeat, tie.along]
