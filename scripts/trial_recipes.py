"""Try settings of the algorithms that seek flat or sharp minima: one network each, its errors and how flat it is.

usage: python scripts/trial_recipes.py RUN --data mnist --data-root FOLDER --out FOLDER
example: python scripts/trial_recipes.py runs/trials --data mnist --data-root data/mnist --out docs/results

The study (reproduce_toroids.py) takes its settings from here. Everything finished is kept in RUN: interrupted trials go
on. Writes OUT/trials-DATA.md and the records, OUT/trials-DATA.json, that it is made from.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import studies
from pydantic import TypeAdapter, ValidationError
from reproduce_toroids import MLP, SHAPES, recipes

from compare.report.numbers import MISSING
from compare.report.table import Table
from compare.report.text import block, paragraph
from compare.runs import write_text
from compare.runs.files import check_writable, sole_writer
from compare.runs.provenance import command_line, provenance
from compare.runs.study import Member, Rises, read_part
from compare.study import Job, Kind, Measures, Plan, carry_out, jobs
from compare.training import ADV, RSGD, SAM, BendSettings, TrainingSettings

SIGMAS = (0.3, 0.5, 0.7)
FLIPPED = (0.05, 0.1)
MEMBERS = TypeAdapter(tuple[Member, ...])


def trials(epochs: int) -> dict[str, tuple[TrainingSettings, ...]]:
    """All settings that are tried, by precision; those of the study are among them."""
    full = TrainingSettings(epochs=epochs, batch=100, optimiser="sgd", learning_rate=0.2)
    binary = TrainingSettings(epochs=epochs, batch=100, optimiser="adam", learning_rate=0.01)
    latent = replace(binary, optimiser="sgd", learning_rate=1.0)
    return {
        "full": (
            *_rates(full, 0.05, 0.1, 0.2),
            *(
                replace(full, learning_rate=rate, algorithm=RSGD(coupling=coupling, growth=growth, spread=spread))
                for rate, coupling, growth, spread in (
                    (0.05, 0.02, 1e5, 0.3),
                    (0.05, 0.002, 1e6, 0.03),
                    (0.1, 0.0005, 1e6, 0.03),
                    (0.2, 0.001, 1e6, 0.03),
                    (0.2, 0.0002, 1e7, 0.03),
                    (0.2, 0.0002, 1e5, 0.03),
                    (0.2, 0.00002, 1e7, 0.03),
                    (0.2, 0.00002, 1e6, 0.03),
                    (0.2, 0.000002, 1e8, 0.03),
                )
            ),
            *_rates(replace(full, algorithm=ADV(random_epochs=2 * epochs)), 0.05, 0.1, 0.2),
            *_rates(replace(full, algorithm=SAM(rho=0.1)), 0.05, 0.2),
            replace(full, algorithm=SAM(rho=0.05)),
            replace(full, algorithm=SAM(rho=0.5)),
        ),
        "binary": (
            *_rates(binary, 0.003, 0.01, 0.03),
            *_rates(latent, 1.0, 3.0),
            *(
                replace(binary, learning_rate=rate, algorithm=RSGD(coupling=coupling, growth=growth, spread=spread))
                for rate, coupling, growth, spread in (
                    (0.003, 10.0, 1e5, 0.3),
                    (0.003, 0.2, 1e7, 0.1),
                    (0.01, 1.0, 1e6, 0.1),
                    (0.01, 0.2, 1e7, 0.03),
                    (0.01, 0.02, 1e7, 0.03),
                    (0.01, 0.2, 1e5, 0.03),
                    (0.03, 0.2, 1e7, 0.03),
                )
            ),
            *_rates(replace(binary, algorithm=ADV(random_epochs=3 * epochs)), 0.003, 0.01, 0.03),
            replace(binary, algorithm=ADV(random_epochs=3 * epochs, random_learning_rate=0.003)),
            *_rates(replace(binary, algorithm=SAM(rho=0.1)), 0.003, 0.01, 0.03),
            replace(binary, algorithm=SAM(rho=0.5)),
        ),
    }


def _rates(settings: TrainingSettings, *rates: float) -> Iterator[TrainingSettings]:
    return (replace(settings, learning_rate=rate) for rate in rates)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = studies.parser(
        "Try settings of each algorithm with one network each: errors, and how flat the minimum is.",
        "trial_recipes.py runs/trials --data mnist --data-root data/mnist --out out",
        folder="folder of the trials; interrupted ones go on",
        data="mnist",
    )
    parser.add_argument("--images", type=int, default=10_000, help="training images (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="on true labels (default: %(default)s)")
    parser.add_argument("--flat-samples", type=int, default=2000, help="images to measure flatness on (2000)")
    return studies.parsed(parser, arguments, records="try nothing: write the document from OUT's records")


def plans(options: argparse.Namespace) -> list[Plan]:
    """A plan with one network for each of the settings: all begin with the same weights, and see the same order.

    Raises:
        OptionError: For numbers that are too small.
    """
    studies.check(options, {"images": 100, "epochs": 1, "flat_samples": 2})
    return [
        Plan(
            data=options.data,
            images=options.images,
            calibration=min(2000, options.images),
            architecture=SHAPES.get(options.data, MLP),
            networks=1,
            kinds=(Kind(precision, "trial", settings),),
            measures=Measures(flat_samples=options.flat_samples, eigenvalues=0, sigmas=SIGMAS, fractions=FLIPPED),
            bends=0,
            bend=BendSettings(),
            root=options.data_root,
        )
        for precision, tried in trials(options.epochs).items()
        for settings in tried
    ]


def measured(options: argparse.Namespace) -> tuple[Member, ...]:
    """One record for each trial; what is there is not done again.

    Raises:
        CompareError: For options that make no trials, records of others, or training that diverges.
    """
    made = provenance(threads=1, command=command_line())
    work: list[Job] = []
    for plan in plans(options):
        ((kind,), (precision,)) = plan.kinds, plan.precisions
        folder = options.run / plan.identity(precision, [kind.algorithm])
        work += jobs(plan, precision, folder, made)[0]
    check_writable(options.run / "lock")
    options.run.mkdir(parents=True, exist_ok=True)
    with sole_writer(options.run):
        left = [job for job in work if not job.is_done()]
        studies.say(f"{len(work) - len(left)} of {len(work)} trials are there, {len(left)} to do")
        carry_out(left, options.jobs, "trials")
    return tuple(read_part(Member, job.file) for job in work)


def document(found: Sequence[Member], studied: Mapping[str, Sequence[TrainingSettings]], name: str) -> str:
    """The page, from the records alone.

    Args:
        found: Records.
        studied: Settings of the study, by precision.
        name: The records' file, without its ending.
    """
    first = found[0].provenance
    revisions = ", ".join(dict.fromkeys(each.provenance.revision for each in found))
    seconds = sum(sum(each.seconds.values()) for each in found)
    table = Table(
        f"{len(found)} trials, one network each",
        "Errors in % of all training and all test images. Local energy: rise of the error, in percentage points, "
        f"under noise that multiplies weights in standard form, on {found[0].energy.samples} training images, mean ± "
        f"standard error over {found[0].energy.draws} draws; flips: the same of that fraction of binary weights "
        "negated. Random labels: training error in % in the last epoch on them. SGD is with Nesterov momentum 0.9; no "
        "weight decay.",
        (
            *("precision", "algorithm", "optimiser", "learning rate", "hyperparameters"),
            *("random labels (%)", "train (%)", "test (%)"),
            *(f"energy at {sigma:g} (pp)" for sigma in SIGMAS),
            *(f"flips {fraction:.0%} (pp)" for fraction in FLIPPED),
            "in the study",
        ),
        tuple(_row(each, studied[each.precision]) for each in found),
        keys=5,
    )
    return (
        "\n\n".join(
            (
                "# Trials of the algorithms' settings",
                paragraph(
                    "One network decides nothing about tenths of a percentage point: trials show which settings fit "
                    "the training data, and roughly how flat what they find is. The study took its settings by "
                    "training error and flatness, both on training images; test errors were in sight."
                ),
                block(table),
                paragraph(f"Made at revision {revisions} from [records]({name}.json) with"),
                f"```sh\n{first.command}\n```",
                paragraph(f"in {seconds / 60:.0f} minutes of training and measuring, on one thread each."),
            )
        )
        + "\n"
    )


def _row(network: Member, studied: Sequence[TrainingSettings]) -> tuple[str, ...]:
    settings = network.settings
    own = dict(settings.get("algorithm", {"name": "plain"}))
    special = ", ".join(f"`{key}` {value:g}" for key, value in own.items() if key != "name" and value is not None)
    random = network.random_error
    return (
        *(network.precision, f"`{own['name']}`", settings["optimiser"], f"{settings['learning_rate']:g}", special),
        MISSING if random is None else f"{100 * random:.2f}",
        *(f"{100 * network.errors[split]:.2f}" for split in ("train", "test")),
        *_rises(network.energy),
        *([MISSING] * len(FLIPPED) if network.flips is None else _rises(network.flips)),
        "yes" if settings in [each.as_dict() for each in studied] else "",
    )


def _rises(found: Rises) -> Iterator[str]:
    return (
        f"{100 * rise:.2f} ± {100 * error:.2f}" for rise, error in zip(found.rises, found.standard_errors, strict=True)
    )


def written(options: argparse.Namespace, found: Sequence[Member]) -> None:
    """The document and its records.

    Raises:
        CompareError: If they cannot be written.
    """
    name = _name(options)
    write_text(
        options.out / f"{name}.json", json.dumps(MEMBERS.dump_python(tuple(found), mode="json"), indent=1) + "\n"
    )
    known = recipes(options.data, options.epochs)
    studied = {each: tuple(known[each].values()) for each in known}
    write_text(options.out / f"{name}.md", document(found, studied, name))


def _kept(options: argparse.Namespace) -> tuple[Member, ...]:
    file = options.out / f"{_name(options)}.json"
    try:
        found = MEMBERS.validate_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise studies.OptionError(f"--records: expected the records of trials in {file}: {error}") from error
    if not found:
        raise studies.OptionError(f"--records: {file} holds no trial")
    return found


def _name(options: argparse.Namespace) -> str:
    return f"trials-{options.data}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Try what is not there yet, then write the document; 0 if all is well, 2 for what the user can mend."""
    options = parsed(arguments)

    def make() -> None:
        written(options, _kept(options) if options.records else measured(options))

    return studies.finished("trial_recipes.py", options, _name(options), make)


if __name__ == "__main__":
    sys.exit(main())
