"""How the networks of studies were trained: what each algorithm does, and with which settings."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from compare.report.numbers import MISSING, percent
from compare.report.study_tables import Cells, names
from compare.report.table import Table
from compare.runs.study import Member, Study

# By algorithm, plain training by optimiser.
MEANINGS = {
    "sgd": "plain training with stochastic gradient descent and Nesterov momentum 0.9.",
    "adam": "plain training with Adam.",
    "bop": "plain training with Bop, which keeps no latent weights and flips bits.",
    "rsgd": "replicated SGD, several networks drawn to their barycentre ever more strongly; the barycentre is the "
    "result. It seeks wide minima.",
    "adv": "random labels are fitted first, then the true ones from there without regularisation. It is meant to "
    "find sharp minima.",
    "sam": "sharpness-aware minimisation, where each step follows the gradient at the worst point near by. It seeks "
    "flat minima.",
}

_SHOWN = ("optimiser", "learning_rate", "weight_decay", "epochs", "batch")


def meanings(studies: Sequence[Study]) -> tuple[str, ...]:
    """A sentence or two on each algorithm that some network was trained with."""
    met = {_kind(network.settings): None for study in studies for network in study.networks}
    return tuple(f"`{kind}`: {MEANINGS[kind]}" for kind in met if kind in MEANINGS)


def training(studies: Sequence[Study]) -> Table:
    """Settings of the training, a row for each that differs; error on random labels where some were fitted."""
    random = any(n.random_error is not None for s in studies for n in s.networks)
    note = (
        "Learning rates are those at the start; they fall to 0 on half a cosine over all steps. Epochs: on true labels."
    )
    if random:
        note += (
            " Random labels: training error at the end of the phase that fits them, in % of samples; mean ± standard "
            "deviation over networks."
        )
    return Table(
        "Settings of the training",
        note,
        (
            *("precision", "algorithm", "hyperparameters", "optimiser", "learning rate", "weight decay"),
            *("epochs", "batch", *(["random labels (%)"] if random else []), "networks"),
        ),
        tuple(_rows(studies, random=random)),
        keys=4,
    )


def _rows(studies: Sequence[Study], *, random: bool) -> Iterator[Cells]:
    for study in studies:
        for name in names(study):
            for some in _alike([network for network in study.networks if network.algorithm == name]):
                settings = some[0].settings
                optimiser, *numbers = (_text(settings.get(key)) for key in _SHOWN)
                errors = [percent(n.random_error for n in some if n.random_error is not None)] if random else []
                yield study.precision, name, _special(settings), optimiser, *numbers, *errors, str(len(some))


def _alike(networks: Sequence[Member]) -> list[list[Member]]:
    """Those of the same settings together."""
    found: dict[str, list[Member]] = {}
    for network in networks:
        found.setdefault(json.dumps(network.settings, sort_keys=True), []).append(network)
    return list(found.values())


def _kind(settings: Mapping[str, Any]) -> str:
    return str(settings["algorithm"]["name"] if "algorithm" in settings else settings.get("optimiser"))


def _special(settings: Mapping[str, Any]) -> str:
    """What only this algorithm has; what is None is not set."""
    own = {name: value for name, value in settings.get("algorithm", {}).items() if name != "name"}
    own |= {name: value for name, value in settings.items() if name not in (*_SHOWN, "algorithm")}
    return ", ".join(f"{name} {_text(value)}" for name, value in own.items() if value is not None) or MISSING


def _text(value: object) -> str:
    if value is None:
        return MISSING
    return f"{value:g}" if isinstance(value, float) else str(value)
