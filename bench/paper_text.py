"""docs/paper.md from a report, the model's own errors, and the logs of its training."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench import paper_numbers as paper
from bench.learning import last_errors
from bench.paper_claims import claims_of
from bench.paper_comparisons import comparisons
from twinforce.assess.report.explanations import EXPLANATIONS, TITLES
from twinforce.assess.report.page import rules_of
from twinforce.assess.report.tables import TABLES, ReportTable
from twinforce.assess.report.verdict import Thresholds
from twinforce_models.training.plots import Rows

Report = Mapping[str, Any]


def document(
    report: Report,
    errors: Mapping[str, float],
    logs: Mapping[str, Rows],
    figures: Sequence[str],
    heavy: Report | None = None,
) -> str:
    """Return the page.

    Args:
        report: Of the assessment.
        errors: Of the model on test systems, from its metadata.
        logs: Name -> rows of the logs of training.
        figures: Names of the pictures that were drawn, in docs/paper.
        heavy: The report of an assessment with heavier hydrogens.
    """
    model = report["provenance"]["model"]
    parts = [
        f"# The dark side of the forces, with `{model}`",
        _introduction(report),
        "## What was to be shown",
        _claims(report),
        "## In words",
        *(f"- {each}" for each in report["verdict"]["advice"]),
        "",
        _rules(report),
        "## Errors",
        markdown(_errors_table(model, errors)),
        _errors_note(errors),
        *(_piece(report, piece, figures) for piece in TABLES if piece in report["pieces"]),
        *(heavy_parts(heavy) if heavy else ()),
        "## What training costs, with and without direct pre-training",
        markdown(_training_table(logs)),
        *_training_notes(logs),
        "## What agrees with the paper, and what does not",
        *(f"- {each}" for each in comparisons(report, errors, logs)),
        "",
        "## Run it again",
        _again(report),
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
    """Join lines of one list; drop what is empty."""
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
        f"[Bigi, Langer and Ceriotti]({paper.URL}) asked what goes wrong with forces that are no "
        "gradient of an energy. This page asks the same of the bundled model, with the same "
        f"probes: version {provenance['version']}, sha256 `{provenance['sha256'][:12]}`, "
        f"{provenance['dtype']} on {provenance['device']}; {atoms['n_atoms']} atoms "
        f"({atoms['formula']}) at {conditions['temperature_k']:g} K, inner steps of "
        f"{conditions['time_step_fs']:g} fs, everything over gRPC. It is written by `make paper` "
        "from [report.json](paper/report.json); its sentences follow from the numbers by rule. "
        f"So far {report['wall_s'] / 3600.0:.1f} hours of wall time went into it."
    )


def _claims(report: Report) -> str:
    rows = tuple((each.text, f"**{each.holds}**", each.numbers) for each in claims_of(report))
    return markdown(ReportTable(("claim", "holds", "measured"), rows))


def _rules(report: Report) -> str:
    return rules_of(Thresholds(**report["thresholds"]))


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
    theirs = [(name, *values) for name, values in paper.ERRORS.items()]
    return ReportTable(("model", "force MAE, meV/Å", "energy MAE, meV/atom"), (*ours, *theirs))


def _errors_note(errors: Mapping[str, float]) -> str:
    if not errors:
        return ""
    return (
        f"Ours on {errors['n_test_systems']:.0f} systems that training never saw, of another split "
        "and fewer data than the paper's, so that only the order of magnitude compares."
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
    beside = _beside(piece)
    parts = [
        f"## {TITLES[piece]}",
        EXPLANATIONS[piece],
        *tables,
        *beside,
        *pictures,
        " ".join(notes),
    ]
    return "\n\n".join(each for each in parts if each)


def heavy_parts(report: Report) -> Iterator[str]:
    """Yield what is told of an assessment with heavier hydrogens."""
    mass = report["atoms"]["masses"]["H"]
    yield f"## With hydrogens of {mass:g} amu"
    yield (
        "The same model and system, with mass taken from oxygens for hydrogens: structure is what "
        "it was, vibrations are slower, so that the same outer step is further from resonance. "
        f"All numbers are in [heavy.json](paper/heavy.json), of version "
        f"{report['provenance']['version']}."
    )
    for piece in ("resonance", "nve", "nvt"):
        if piece in report["pieces"]:
            yield f"### {TITLES[piece]}"
            yield from (markdown(make(report)) for make in TABLES[piece])


def _names(piece: str) -> tuple[str, ...]:
    drawn = {"nvt": ("temperatures", "motion", "spectra", "radial")}
    return drawn.get(piece, (piece,))


def _beside(piece: str) -> list[str]:
    """Return the paper's own numbers of a piece."""
    if piece == "lambda":
        rows = tuple((name, f"{value:g}") for name, value in paper.LAMBDAS.items())
        return ["The paper's:", markdown(ReportTable(("forces", "λ"), rows))]
    if piece == "nvt":
        rows = tuple((name, *values) for name, values in paper.TEMPERATURES.items())
        return [
            "The paper's:",
            markdown(ReportTable(("forces; thermostat", "T, K", "H, K", "O, K"), rows)),
        ]
    if piece == "nve":
        text = f"about {paper.HEATING_K_PER_PS:g} K/ps"
        return [
            f"The paper's: PET direct heats by {text}; conservative forces and MTS do not drift."
        ]
    if piece == "cost":
        return [f"The paper's F is about {paper.F:g}, on a GPU."]
    return []


def _training_table(logs: Mapping[str, Rows]) -> ReportTable:
    rows = []
    for name, log in logs.items():
        last = last_errors(log)
        stages = [row["stage"] for row in log]
        epochs = ", ".join(f"{stages.count(each)} {each}" for each in dict.fromkeys(stages))
        trained = {"conservative", *stages}  # a head that no stage trained has no error to show
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
            yield f"`{name}`: an epoch of conservative forces costs {ratio:.1f} of direct ones."
    yield "![Errors against CPU time](training/learning.png)"


def _again(report: Report) -> str:
    return (
        "```bash\n"
        "make paper PAPER_MINUTES=60    # goes on where it stopped; again until all is done\n"
        "make paper PAPER_MINUTES=0     # writes this page from what is there\n"
        "make paper ARGS='--pieces nvt:hybrid-8:svr:10'\n"
        "make paper ARGS='--hydrogen-mass 3 --pieces resonance,nve:hybrid-8'\n```\n\n"
        f"The seed is {report['conditions']['seed']}; service "
        f"{report['provenance']['service_version']}, client "
        f"{report['provenance']['client_version']}. "
        "[assess.md](assess.md) says how each number and its error come about."
    )


def paths_of_logs(folder: Path) -> list[Path]:
    """Return the logs of training that are kept."""
    return sorted(folder.glob("water*.csv"))
