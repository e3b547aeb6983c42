"""All parts of a study together."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from compare.connectivity import description, recorded_data
from compare.runs.study import Bend, Member, Pair, Study
from compare.study.site import Origin, Site


def study(
    site: Site,
    networks: Iterable[Member],
    pairs: Iterable[Pair],
    bends: Iterable[Bend],
    configuration: Mapping[str, Any],
    origin: Origin,
) -> Study:
    """All parts together.

    Args:
        site: Theirs.
        networks: One record for each network.
        pairs: One for each pair that was measured.
        bends: One for each pair that was bent.
        configuration: What led to the networks, plain values.
        origin: Where the record comes from.

    Returns:
        The record of the study.
    """
    return Study(
        identity=origin.identity,
        precision=site.family.name,
        title=site.family.title,
        bits=site.family.bits,
        model=description(site.model),
        data=recorded_data(site.data, site.splits),
        networks=tuple(networks),
        pairs=tuple(pairs),
        bends=tuple(bends),
        configuration=dict(configuration),
        provenance=origin.provenance,
    )


def all_pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """Each two of ``names``, in their order."""
    return list(itertools.combinations(names, 2))
