"""The page docs/paper.md, from a report, the errors of the model, and the logs of its training."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from bench.paper import reference
from bench.paper.claims import claims_of
from bench.paper.comparisons import comparisons
from bench.studies.learning import last_errors
from twinforce.assess.report.content import Report
from twinforce.assess.report.explanations import EXPLANATIONS, TITLES
from twinforce.assess.report.formatting import ReportTable
from twinforce.assess.report.page import rules_of
from twinforce.assess.report.tables import TABLES
from twinforce.assess.report.verdict import Thresholds, judge
from twinforce_models.training.plots import Rows


def document(
    report: Report,
    errors: Mapping[str, float],
    logs: Mapping[str, Rows],
    figures: Sequence[str],
    heavy: Report | None = None,
) -> str:
    """Return the page in Markdown.

    Args:
        report: Report of the assessment.
        errors: Errors of the model on test systems, from its metadata.
        logs: Name of a training run -> rows of its log.
        figures: Names of the plots in docs/paper.
        heavy: Report of an assessment with heavier hydrogens, if there is one.
    """
    model, thresholds = report["provenance"]["model"], Thresholds(**report["thresholds"])
    parts = [
        f"# The dark side of the forces, with `{model}`",
        _introduction(report),
        "## Claims",
        _claims(report),
        "## Verdict",
        *(f"- {each}" for each in judge(report, thresholds).advice),
        "",
        rules_of(thresholds),
        "## Errors",
        markdown(_errors_table(model, errors)),
        _errors_note(errors),
        *(_piece(report, piece, figures) for piece in TABLES if piece in report["pieces"]),
        *(heavy_parts(heavy) if heavy else ()),
        "## Cost of training, with and without direct pre-training",
        markdown(_training_table(logs)),
        *_training_notes(logs),
        "## Comparison with the paper",
        *(f"- {each}" for each in comparisons(report, errors, logs)),
        "",
        "## Reproduce this page",
        _commands(report),
    ]
    return "\n\n".join(_joined(parts)) + "\n"


def markdown(table: ReportTable) -> str:
    """Return a table in Markdown."""
    if not table.rows:
        return "Not measured yet."
    lines = [table.headers, tuple("---" for _ in table.headers), *table.rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _joined(parts: Iterable[str]) -> Iterator[str]:
    """Join the items of each list, and drop empty parts."""
    lines: list[str] = []
    for part in parts:
        if part.startswith("- "):
            lines.append(part)
            continue
        if lines:
            yield "\n".join(lines)
            lines = []
        if part:
            yield part


def _introduction(report: Report) -> str:
    provenance, atoms, conditions = report["provenance"], report["atoms"], report["conditions"]
    return (
        f"[Bigi, Langer and Ceriotti]({reference.URL}) studied the consequences of forces that are "
        "not the gradient of an energy. This page repeats their experiments with the bundled "
        f"model: version {provenance['version']}, sha256 `{provenance['sha256'][:12]}`, "
        f"{provenance['dtype']} on {provenance['device']}; {atoms['n_atoms']} atoms "
        f"({atoms['formula']}) at {conditions['temperature_k']:g} K, inner steps of "
        f"{conditions['time_step_fs']:g} fs, all over gRPC. `make paper` writes the page from "
        "[report.json](paper/report.json), and rules derive its sentences from the numbers. The "
        f"experiments have taken {report['wall_s'] / 3600.0:.1f} hours of wall time so far."
    )


def _claims(report: Report) -> str:
    rows = tuple((each.text, f"**{each.holds}**", each.numbers) for each in claims_of(report))
    return markdown(ReportTable(("claim", "holds", "measured"), rows))


def _errors_table(model: str, errors: Mapping[str, float]) -> ReportTable:
    ours = []
    if errors:
        energy = f"{errors['energy_mae_mev_per_atom']:.2f}"
        ours = [
            (
                f"**`{model}`, {kind} forces**",
                f"**{errors[f'{kind}_forces_mae_mev_per_angstrom']:.1f}**",
                f"**{energy}**" if kind == "conservative" else "",
            )
            for kind in ("conservative", "direct")
        ]
    theirs = [(name, *values) for name, values in reference.ERRORS.items()]
    return ReportTable(("model", "force MAE, meV/Å", "energy MAE, meV/atom"), (*ours, *theirs))


def _errors_note(errors: Mapping[str, float]) -> str:
    if not errors:
        return ""
    return (
        f"Our errors are those on {errors['n_test_systems']:.0f} systems that were kept out of "
        "training. The split differs from that of the paper and the data are fewer, so that only "
        "the orders of magnitude can be compared."
    )


def _piece(report: Report, piece: str, figures: Sequence[str]) -> str:
    tables = [markdown(make(report)) for make in TABLES[piece]]
    pictures = [
        f"![{TITLES[piece]}](paper/{name}.png)" for name in figures if name in _names(piece)
    ]
    notes = [
        f"`{key}`: {unit['note'] or unit['status']}."
        for key, unit in report["pieces"][piece].items()
        if unit["status"] != "done"
    ]
    parts = [
        f"## {TITLES[piece]}",
        EXPLANATIONS[piece],
        *tables,
        *_reference_parts(piece),
        *pictures,
        " ".join(notes),
    ]
    return "\n\n".join(each for each in parts if each)


def heavy_parts(report: Report) -> Iterator[str]:
    """Yield the parts of the page about an assessment with heavier hydrogens."""
    mass = report["atoms"]["masses"]["H"]
    yield f"## Heavier hydrogens of {mass:g} amu"
    yield (
        "In the same system, mass is moved from oxygens to hydrogens. The structure stays the "
        "same, but vibrations are slower, so that the same outer step is further from resonance. "
        f"All numbers are in [heavy.json](paper/heavy.json), for version "
        f"{report['provenance']['version']} of the model."
    )
    for piece in ("resonance", "nve", "nvt"):
        if piece in report["pieces"]:
            yield f"### {TITLES[piece]}"
            yield from (markdown(make(report)) for make in TABLES[piece])


def _names(piece: str) -> tuple[str, ...]:
    drawn = {"nvt": ("temperatures", "motion", "spectra", "radial")}
    return drawn.get(piece, (piece,))


def _reference_parts(piece: str) -> list[str]:
    """Return the paper's numbers for a piece."""
    if piece == "lambda":
        rows = tuple((name, f"{value:g}") for name, value in reference.LAMBDAS.items())
        return ["Values in the paper:", markdown(ReportTable(("forces", "λ"), rows))]
    if piece == "nvt":
        rows = tuple((name, *values) for name, values in reference.TEMPERATURES.items())
        headers = ("forces; thermostat", "T - target, K", "H, K", "O, K")
        return ["Values in the paper:", markdown(ReportTable(headers, rows))]
    if piece == "nve":
        return [
            f"In the paper, PET direct heats by about {reference.HEATING_K_PER_PS:g} K/ps; "
            "conservative forces and MTS do not drift."
        ]
    if piece == "cost":
        return [f"In the paper, F is about {reference.F:g}, on a GPU."]
    return []


def _training_table(logs: Mapping[str, Rows]) -> ReportTable:
    rows = []
    for name, log in logs.items():
        last = last_errors(log)
        stages = [row["stage"] for row in log]
        epochs = ", ".join(f"{stages.count(each)} {each}" for each in dict.fromkeys(stages))
        trained = {"conservative", *stages}  # the error of an untrained head means nothing
        shown = [
            f"{last[kind]:.1f}" if kind in last and kind in trained else ""
            for kind in ("conservative", "direct")
        ]
        rows.append(
            (name, epochs, f"{last['minutes']:.1f}", *shown, f"{last.get('energy', 0):.2f}")
        )
    headers = (
        "run",
        "epochs",
        "CPU minutes",
        "conservative MAE, meV/Å",
        "direct MAE, meV/Å",
        "energy MAE, meV/atom",
    )
    return ReportTable(headers, tuple(rows))


def seconds_per_epoch(log: Rows) -> dict[str, float]:
    """Return the median CPU time of an epoch of each stage, in s."""
    times: dict[str, list[float]] = {}
    for before, row in itertools.pairwise(log):
        if before["stage"] == row["stage"]:
            spent = float(row["cpu_s"]) - float(before["cpu_s"])
            times.setdefault(row["stage"], []).append(spent)
    return {stage: median(each) for stage, each in times.items()}


def _training_notes(logs: Mapping[str, Rows]) -> Iterator[str]:
    for name, log in logs.items():
        each = seconds_per_epoch(log)
        if {"direct", "conservative"} <= each.keys():
            ratio = each["conservative"] / each["direct"]
            yield (
                f"In `{name}`, an epoch of conservative forces costs as much as {ratio:.1f} epochs "
                "of direct forces."
            )
    yield "![Errors against CPU time](training/learning.png)"


def _commands(report: Report) -> str:
    return (
        "```bash\n"
        "make paper PAPER_MINUTES=60    # continue; repeat until all experiments are done\n"
        "make paper PAPER_MINUTES=0     # write this page from the experiments in runs/paper\n"
        "make paper ARGS='--page-only'  # write this page from report.json\n"
        "make paper ARGS='--pieces nvt:hybrid-8:svr:10'\n"
        "make paper ARGS='--hydrogen-mass 3 --pieces resonance,nve:hybrid-8'\n```\n\n"
        f"The seed is {report['conditions']['seed']}; the version of the service is "
        f"{report['provenance']['service_version']}, that of the client "
        f"{report['provenance']['client_version']}. "
        "[assess.md](assess.md) explains how each number and its error are obtained."
    )


def paths_of_logs(folder: Path) -> list[Path]:
    """Return the logs of the training runs in a folder."""
    return sorted(folder.glob("water*.csv"))
