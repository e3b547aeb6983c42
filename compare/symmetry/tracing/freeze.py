"""From the state of a tracing to the frozen coupling graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from compare.symmetry.graph import Block, Generator, Graph, Layer, StandardForm, SymmetryError, Tie
from compare.symmetry.tracing.diagonals import Solution, solutions
from compare.symmetry.tracing.site import Tracing
from compare.symmetry.tracing.spaces import Space
from compare.symmetry.tracing.values import Draft, Value, Variable, values_in


@dataclass(frozen=True)
class _Stretch:
    """One stretch of one axis of one parameter."""

    name: str
    axis: int
    start: int
    space: Space
    whole: Space | None
    along: int | None

    @property
    def variable(self) -> Variable:
        return self.name, self.axis, self.start

    def tie(self, block: Space, *, scored: bool) -> Tie:
        """The stretch as a tie of a block on the way to the root."""
        return Tie(self.name, self.axis, self.start, self.space.size // block.size, self.along, scored)


def frozen_graph(tracing: Tracing, output: Any, standardise: StandardForm) -> Graph:
    """The coupling graph of a network that was followed to its end.

    Args:
        tracing: The state after the last pass.
        output: What the network gives, a value or several.
        standardise: The precision's standard form.

    Returns:
        The graph.

    Raises:
        SymmetryError: If the network has no linear map.
    """
    if not tracing.drafts:
        raise SymmetryError("expected a network of linear maps; no linear map was found")
    for value in values_in(output):
        tracing.outputs.update(space for axis in value.axes for space in axis.label)
    stretches = list(_stretches(tracing))
    generators = _generators(tracing, stretches)
    spaces = _block_spaces(stretches, generators)
    index = {space: i for i, space in enumerate(spaces)}
    scored = frozenset(n for n in tracing.labels if n not in tracing.unscored)
    blocks = tuple(_block(space, index, stretches, generators, tracing, scored) for space in spaces)
    tail = output.tail if isinstance(output, Value) else None
    layers = _layers(tracing, stretches, index, tail)
    return Graph(
        layers=layers,
        blocks=_named(blocks),
        reference=dict(tracing.reference),
        standardise=standardise,
        scalable=any(layer.last for layer in layers),
        order=tuple(tracing.labels),
        gains=frozenset(tracing.gains),
        exact=bool(tracing.drafts) and all(draft.binarised and draft.integer for draft in tracing.drafts),
        remarks=tuple(_remarks(tracing, stretches, index)),
        tie_rates={name: tracing.ties.get(name, 0.0) for name in tracing.stepped},
    )


def _remarks(tracing: Tracing, stretches: list[_Stretch], index: dict[Space, int]) -> Iterator[str]:
    told = set()
    for space, why in tracing.spaces.frozen:
        names = [s.name for s in stretches if s.space in space.now() and s.space not in index]
        if names and names[0] not in told:
            told.add(names[0])
            yield f"{names[0]}: units do not move: {why}"


def _stretches(tracing: Tracing) -> Iterator[_Stretch]:
    for name, axes in tracing.labels.items():
        for number, axis in enumerate(axes):
            axis, start = axis.now(), 0
            whole = axis.within[0] if axis.within else None
            along = 1 - number if whole is not None else None
            for piece in axis.pieces:
                yield _Stretch(name, number, start, piece.space, whole, along)
                start += piece.space.size


def _generators(tracing: Tracing, stretches: list[_Stretch]) -> dict[Space, list[tuple[str, Solution]]]:
    space_of = {stretch.variable: stretch.space for stretch in stretches}
    order = list(space_of)
    gains, offsets = set(tracing.gains), set(tracing.offsets)
    by_sign = sorted(order, key=lambda v: 0 if v[0] in gains else 1 if v[0] in offsets else 2)
    by_scale = sorted(order, key=lambda v: v[0] in offsets)
    signs = [dict.fromkeys(members, 1) for members in tracing.signs]
    found: dict[Space, list[tuple[str, Solution]]] = {}
    for kind, variables, equations in (("sign", by_sign, signs), ("scale", by_scale, tracing.scales)):
        for solution in solutions(variables, equations, space_of, tracing.levels, binary=kind == "sign"):
            found.setdefault(solution.space, []).append((kind, solution))
    return found


def _block_spaces(stretches: list[_Stretch], generators: dict[Space, list[tuple[str, Solution]]]) -> list[Space]:
    """Spaces that move or carry diagonals, with the wholes they lie in, in the order in which they are met."""
    needed: set[Space] = set()
    for stretch in stretches:
        for space in stretch.space.chain():
            if (space.size > 1 and not space.rigid) or space in generators:
                needed |= {level for level in space.chain() if level.size > 1 or level is space}
    return list(dict.fromkeys(level for s in stretches for level in s.space.chain() if level in needed))


def _owner(stretch: _Stretch, index: dict[Space, int]) -> Space | None:
    """The block whose units the stretch holds; None where nothing on this axis moves by itself."""
    for space in reversed(stretch.space.chain()):
        if space is stretch.whole:
            return None
        if space in index:
            return space
    return None


def _block(
    space: Space,
    index: dict[Space, int],
    stretches: list[_Stretch],
    generators: dict[Space, list[tuple[str, Solution]]],
    tracing: Tracing,
    scored: frozenset[str],
) -> Block:
    by_variable = {stretch.variable: stretch for stretch in stretches}

    def tie(stretch: _Stretch) -> Tie:
        return stretch.tie(space, scored=stretch.name in scored)

    own = tuple(
        Generator(
            kind,  # type: ignore[arg-type]
            tuple((tie(by_variable[v]), float(e)) for v, e in solution.exponents.items()),
        )
        for kind, solution in generators.get(space, [])
    )
    parents = [level for level in space.chain()[:-1] if level in index]
    reasons = [*tracing.notes, *tracing.spaces.frozen]
    told = dict.fromkeys(why for other, why in reasons if space in other.now())
    notes = list(told) or (["units do not move: they stand beside some that do not"] if _stands(space, tracing) else [])
    ties = tuple(tie(stretch) for stretch in stretches if _owner(stretch, index) is space)
    first = next(s for s in stretches if space in s.space.chain())
    return Block(
        name=first.name.rpartition(".")[0] or first.name,
        size=space.size,
        ties=ties,
        generators=own,
        parent=index[parents[-1]] if parents else None,
        rigid=space.rigid,
        notes=tuple(notes),
    )


def _stands(space: Space, tracing: Tracing) -> bool:
    """Whether units do not move for a reason that is not plain: those of the last layer are outputs."""
    return space.fixed and space not in tracing.outputs


def _named(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    """Names that several blocks share are told apart by where the units begin."""
    seen: dict[str, int] = {}
    named = []
    for block in blocks:
        count = seen[block.name] = seen.get(block.name, 0) + 1
        named.append(block if count == 1 else replace(block, name=f"{block.name} ({count})"))
    return tuple(named)


def _layers(
    tracing: Tracing, stretches: list[_Stretch], index: dict[Space, int], tail: Draft | None
) -> tuple[Layer, ...]:
    calls: dict[str, list[Draft]] = {}
    for draft in tracing.drafts:
        calls.setdefault(draft.weight, []).append(draft)
    layers = []
    for weight, drafts in calls.items():
        draft = drafts[0]
        outputs = [s for s in stretches if s.name == weight and s.axis == draft.axis]
        norm = draft.norm
        own = [weight, draft.bias, *((norm.gain, norm.offset, norm.mean, norm.variance) if norm else ())]
        # What other layers use as well takes no liberties.
        alone = len(drafts) == 1 and all(len(tracing.users[name]) == 1 for name in own if name)
        owner = _owner(outputs[0], index) if len(outputs) == 1 else None
        layers.append(
            Layer(
                name=draft.name,
                weight=weight,
                bias=draft.bias,
                axis=draft.axis,
                norm=norm if alone else None,
                pooled=draft.pooled,
                block=None if owner is None or owner is not outputs[0].space else index[owner],
                last=draft is tail and alone,
                binarised=draft.binarised,
                step=draft.step and alone,
                integer=all(other.integer for other in drafts),
                quantised=draft.quantised,
            )
        )
    return tuple(layers)
