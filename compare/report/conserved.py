"""Conserved quantities as one document, from their records alone."""

from collections.abc import Iterator, Mapping

from compare.report.charts import Chart
from compare.report.conserved_claims import claim_table
from compare.report.conserved_tables import course_table, initial_table, law_table, orbit_table
from compare.report.origin import made_by
from compare.report.text import block, paragraph
from compare.runs.conserved import Conserved


def document(found: Conserved, name: str, charts: Mapping[str, Chart]) -> str:
    """The whole document: claims first, then every number they rest on.

    Args:
        found: The records.
        name: Of the document's file without its ending; pictures are ``NAME-FIGURE.png`` beside it, records
            ``NAME.json``.
        charts: By the names of ``conserved_charts``.

    Returns:
        GitHub-flavoured Markdown.
    """
    tables = (law_table, course_table, initial_table, orbit_table)
    blocks = [
        f"# Conserved quantities, in theory and on {found.data}",
        *map(paragraph, _introduction()),
        block(claim_table(found)),
        _made_by(found, name),
        *(
            f"### {chart.title}\n\n![{chart.title}]({name}-{key}.png)\n\n{paragraph(chart.note)}"
            for key, chart in charts.items()
        ),
        *(block(table) for table in (make(found) for make in tables) if table.rows),
        *_method(found),
    ]
    return "\n\n".join(blocks) + "\n"


def _introduction() -> tuple[str, ...]:
    return (
        "A continuous symmetry of the loss makes gradient flow conserve a quantity (Zhao et al., [Symmetries, Flat "
        "Minima, and the Conserved Quantities of Gradient Flow](https://arxiv.org/abs/2210.17216)). Which one, for "
        "which function between two layers, is derived in [the guide](../conserved.md). Here each is tested: gradient "
        "descent with smaller steps comes closer to the flow, so what the flow conserves must drift in proportion to "
        "the step. The latent weights of binary networks are trained by straight-through gradients, which are "
        "gradients of no function: nothing promises that anything is conserved, and how much it drifts is measured "
        "beside full precision.",
        "The last part asks what the quantity's value does to training. Scaling weights changes it, but the function "
        "and the loss, too; elements of the block's group change it alone.",
    )


def _made_by(found: Conserved, name: str) -> str:
    seconds = sum(piece.seconds for piece in found.pieces)
    return made_by(
        (piece.provenance for piece in found.pieces),
        "one thread a piece",
        f", in {seconds / 60:.1f} minutes of processor time. The "
        f"[records]({name}.json) hold every number, seeds and configuration; `--records` writes this page from them.",
    )


def _method(found: Conserved) -> Iterator[str]:
    given = found.configuration
    orbit, problem, exponents = given["orbit"], given["problem"], given["exponents"]
    pixels = " x ".join(map(str, problem["pixels"]))
    yield "### How it was measured"
    yield paragraph(
        f"Problems: networks with {problem['inputs']} inputs, {problem['hidden']} hidden units and "
        f"{problem['outputs']} outputs, the convolutions with inputs of {pixels} pixels, {problem['hidden']} and "
        f"{problem['channels']} channels and a linear map; normal targets, mean squared error, double precision, "
        f"plain gradient descent for time {given['problem_time']:g} with steps "
        f"{', '.join(f'{rate:g}' for rate in given['problem_rates'])}, {given['seeds']} seeds. tanh, sigmoid and "
        f"radial tanh have {problem['inputs']} orthonormal samples and no bias before the function; batch "
        f"normalisation is in training mode, with eps {problem['eps']:g}."
    )
    yield paragraph(
        f"On data: perceptrons with two hidden layers of {given['hidden']} units and batch normalisation in training "
        f"mode, cross-entropy on {given['samples']} training samples at once, double precision, time {given['time']:g} "
        f"with steps {', '.join(f'{rate:g}' for rate in given['rates'])}, no clipping of latent weights. The "
        "quantities are those of the full-precision network; the binary one has parameters of the same names, and "
        "its latent weights stand for weights. Batch normalisation has its default eps of 1e-5, which alone adds a "
        "little drift to rows."
    )
    yield paragraph(
        f"Training: the same networks, {given['epochs']} epochs of Adam on all training samples with the defaults of "
        f"each precision but for the learning rate, {given['learning_rate']:g} for both; latent weights are clipped to "
        "[-1, 1]."
    )
    yield paragraph(
        f"Speed and curvature: a perceptron with {given['hidden']} ReLU units and biases, without normalisation, "
        f"Kaiming initialisation, inputs centred, of root mean square norm {given['input_norm']:g}; "
        f"{given['networks']} networks, each started from {len(exponents)} points (incoming weights times e^c, "
        f"outgoing ones times e^-c, c from {min(exponents):g} to {max(exponents):g}; balance c* is computed from "
        f"the squared gradients in both at c = 0), steps of {orbit['rate']:g} on {given['samples']} samples at once. "
        f"Rate: fall of the log of the loss over {orbit['steps']} steps. Target: a loss of {orbit['target']:g} nats, "
        f"within {orbit['most']} steps."
    )
