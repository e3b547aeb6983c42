"""One network of a study: its errors, and how flat the minimum is that it lies in."""

import time

from compare.evaluation import evaluate, local_energy
from compare.evaluation.hessian import curvature
from compare.evaluation.sharpness import flip_sharpness, sharpness
from compare.params import Params, check, parameters
from compare.runs.study import Curvature, Member, Rises, Worst
from compare.study.site import Origin, Site
from compare.symmetry import Graph, standard_form
from compare.training import Trained


def member(site: Site, trained: Trained, algorithm: str, origin: Origin) -> Member:
    """Errors of a network on all samples, and how flat the minimum is that it lies in, in standard form.

    Args:
        site: The network's.
        trained: The network.
        algorithm: What found it; with the seed it is the network's name.
        origin: Where the record comes from.

    Returns:
        The record of one network.

    Raises:
        ParameterError: If the parameters do not fit the network.
    """
    began = time.perf_counter()
    check(trained.params, parameters(site.model), what="the trained network")
    scores = {
        "train": evaluate(site.model, trained.params, site.data.train),
        "test": evaluate(site.model, trained.params, site.data.test),
    }
    form = standard_form(site.graph, trained.params, invariant="loss")
    return Member(
        identity=origin.identity,
        precision=site.family.name,
        algorithm=algorithm,
        seed=trained.seed,
        errors={split: score.error for split, score in scores.items()},
        losses={split: score.loss for split, score in scores.items()},
        parameters=sum(parameter.numel() for parameter in site.model.parameters()),
        energy=_energy(site, form),
        flips=_flips(site, form),
        worst=_worst(site, form),
        curvature=_curvature(site, form),
        history=trained.history,
        settings=trained.settings.as_dict(),
        seconds={
            "training": sum(epoch.seconds for epoch in trained.history),
            "measuring": time.perf_counter() - began,
        },
        provenance=origin.provenance,
    )


def _names(graph: Graph) -> set[str]:
    return {layer.weight for layer in graph.layers}


def _energy(site: Site, form: Params) -> Rises:
    """The noise has a seed of its own: the same draws for all networks."""
    measures = site.measures
    found = local_energy(site.model, form, site.flat, measures.sigmas, names=_names(site.graph), draws=measures.draws)
    return Rises(
        split="train",
        samples=found.samples,
        draws=found.draws,
        error=found.error,
        sizes=found.sigmas,
        rises=found.rises,
        standard_errors=found.standard_errors,
    )


def _flips(site: Site, form: Params) -> Rises | None:
    if site.family.flips is None:
        return None
    measures = site.measures
    return site.family.flips(site.model, form, "train", site.flat, measures.fractions, draws=measures.draws, seed=0)


def _worst(site: Site, form: Params) -> Worst:
    """Among networks with few bits flipped where there are bits, else within a ball of weights."""
    measures, bits = site.measures, site.graph.binarised
    found = (
        flip_sharpness(site.model, form, site.flat, measures.flipped, names=bits)
        if bits
        else sharpness(
            *(site.model, form, site.flat, measures.radius),
            names=_names(site.graph),
            surrogate=site.graph.straight_through,
        )
    )
    return Worst(
        split="train",
        samples=found.samples,
        ball=found.ball,
        radius=found.radius,
        loss=found.loss,
        error=found.error,
        worst_loss=found.worst_loss,
        worst_error=found.worst_error,
        surrogate=found.surrogate,
    )


def _curvature(site: Site, form: Params) -> Curvature | None:
    count = site.measures.eigenvalues
    if not count:
        return None
    samples = site.data.train.subset(site.measures.curved_samples)
    # A surrogate's curvature would depend on the sizes of latent weights, which change nothing.
    weights = site.family.effective(site.model, form)
    found = curvature(
        *(site.model, weights, samples),
        names=_names(site.graph),
        surrogate=site.graph.straight_through,
        count=count,
        coordinates="relative",
    )
    return Curvature(
        split="train",
        samples=found.samples,
        eigenvalues=found.eigenvalues,
        trace=found.trace,
        trace_standard_error=found.trace_error,
        surrogate=found.surrogate,
    )
