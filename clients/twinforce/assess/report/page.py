"""A report as one self-contained HTML page, which includes its figures and styles."""

import io
import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from twinforce.assess.report.advice import OPTIMIZATION
from twinforce.assess.report.content import Report, title_of
from twinforce.assess.report.explanations import EXPLANATIONS, TITLES
from twinforce.assess.report.figures import FIGURES
from twinforce.assess.report.formatting import ReportTable
from twinforce.assess.report.tables import TABLES
from twinforce.assess.report.verdict import Thresholds

# Text and axes are drawn in this color, which `svg_of` replaces by that of the surrounding text.
_INK = "#010203"
SVG_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "twinforce",  # ids are the same for the same figure
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(
        (
            "text.color",
            "axes.edgecolor",
            "axes.labelcolor",
            "axes.titlecolor",
            "xtick.color",
            "ytick.color",
        ),
        _INK,
    ),
}
STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --ground: #ffffff; --soft: #5b6875;
  --line: #d9dfe5; --card: #f5f7f9; --good: #0b7a4b; --bad: #b3261e; --open: #7a6400; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ee; --ground: #14181d; --soft: #9aa7b4;
  --line: #323b45; --card: #1d232a; --good: #4fc38a; --bad: #ff8a80; --open: #e0c04c; } }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.3rem; margin: 2.8rem 0 .4rem; }
.lead { color: var(--soft); margin: 0 0 1.6rem; }
.verdict { background: var(--card); border-left: 4px solid var(--good); border-radius: 6px;
  padding: .9rem 1.3rem; }
.verdict p { margin: .45rem 0; }
.verdict p:first-child { font-weight: 600; }
figure { margin: 1rem 0; overflow-x: auto; } figure svg { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .84rem; margin: .8rem 0; min-width: 30rem; }
th, td { text-align: left; padding: .32rem .8rem .32rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; }
.safe { color: var(--good); font-weight: 600; } .unsafe { color: var(--bad); font-weight: 600; }
.not { color: var(--open); font-weight: 600; } .note { color: var(--soft); font-size: .88rem; }
"""


def page_of(report: Report) -> str:
    """Return the HTML page of a report."""
    name = escape(str(report["provenance"]["model"]))
    parts = [
        f"<h1>Are the direct forces of {name} safe?</h1>",
        f'<p class="lead">{_lead(report)}</p>',
        _verdict(report),
        *(_piece(report, piece) for piece in FIGURES if piece in report["pieces"]),
        "<h2>Rules of the verdict</h2>",
        _rules(report),
        "<h2>Provenance</h2>",
        _provenance(report),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}: direct forces</title><style>{STYLE}</style></head>\n"
        f"<body><main>\n{chr(10).join(parts)}\n</main></body></html>\n"
    )


def svg_of(figure: Figure, name: str) -> str:
    """Return a figure as SVG for embedding in a page; its ids begin with its name."""
    file = io.StringIO()
    figure.patch.set_alpha(0.0)
    for axes in figure.axes:
        axes.patch.set_alpha(0.0)
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", metadata=metadata)
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", text, count=1, flags=re.S)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    return re.sub(r'(url\(|href=")#', rf"\1#{name}-", text).replace("xlink:href", "href")


def drawn(report: Report, piece: str) -> Iterator[tuple[str, str]]:
    """Yield the name of each figure of a piece, and the figure as SVG."""
    for name, draw in FIGURES[piece].items():
        with mpl.rc_context(SVG_STYLE):
            figure = draw(report)
            if figure is not None:
                yield name, svg_of(figure, name)


def _lead(report: Report) -> str:
    atoms, conditions = report["atoms"], report["conditions"]
    n_atoms, n_fixed = atoms["n_atoms"], atoms["n_atoms"] - sum(atoms["free_counts"].values())
    fixed = f", {n_fixed} of them fixed," if n_fixed else ""
    return escape(
        f"{n_atoms} atom{'s' * (n_atoms != 1)} ({atoms['formula']}){fixed} at "
        f"{conditions['temperature_k']:g} K, inner steps of {conditions['time_step_fs']:g} fs. "
        "Direct forces are cheap but are not the gradient of an energy; conservative forces are. "
        "Multiple time stepping (MTS) takes M steps with direct forces for each correction by "
        "conservative forces."
    )


def _verdict(report: Report) -> str:
    lines = "".join(f"<p>{_marked(each)}</p>" for each in report["verdict"]["advice"])
    return f'<section class="verdict">{lines}</section>'


def _marked(sentence: str) -> str:
    """Return a sentence as HTML, with its findings in their colors."""
    return re.sub(
        r"\b(unsafe|safe|not shown)\b",
        lambda match: f'<span class="{match[1].split()[0]}">{match[1]}</span>',
        escape(sentence),
    )


def _piece(report: Report, piece: str) -> str:
    figures = "".join(f"<figure>{svg}</figure>" for _, svg in drawn(report, piece))
    tables = "".join(html_of(make(report)) for make in TABLES[piece])
    return (
        f"<h2>{TITLES[piece]}</h2><p>{escape(EXPLANATIONS[piece])}</p>"
        f"{figures}{tables}{_notes(report, piece)}"
    )


def html_of(table: ReportTable) -> str:
    """Return a table as HTML; nothing if it has no rows."""
    if not table.rows:
        return ""
    head = "".join(f"<th>{escape(each)}</th>" for each in table.headers)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'


def _notes(report: Report, piece: str) -> str:
    """Return paragraphs on the units of a piece that are not done, with the reasons."""
    lines = [
        f"{title_of(key)}: {unit['status']}{_reason(unit)}."
        for key, unit in report["pieces"][piece].items()
        if unit["status"] != "done"
    ]
    return "".join(f'<p class="note">{escape(line)}</p>' for line in lines)


def _reason(unit: Mapping[str, Any]) -> str:
    note = str(unit["note"]).removeprefix(f"{unit['status']}: ")
    if unit["status"] == "shortened":
        return " because time ran out; run the same command again to continue"
    return f" ({note})" if note and note != unit["status"] else ""


def _rules(report: Report) -> str:
    rows = tuple(
        (_topic(each["topic"]), each["subject"], each["finding"], each["reason"])
        for each in report["verdict"]["judgements"]
    )
    table = html_of(ReportTable(("topic", "subject", "finding", "reason"), rows))
    table = re.sub(
        r"<td>(unsafe|safe|not shown)</td>",
        lambda match: f'<td class="{match[1].split()[0]}">{match[1]}</td>',
        table,
    )
    return f"<p>{escape(rules_of(Thresholds(**report['thresholds'])))}</p>{table}"


def _topic(topic: str) -> str:
    return "optimization" if topic == OPTIMIZATION else topic


def rules_of(thresholds: Thresholds) -> str:
    """Return the rules of the verdict in words."""
    return (
        "Energy: safe if the drift plus two standard errors is at most "
        f"{thresholds.max_drift:g} meV/atom/ps. Temperature: safe if every species is within two "
        "standard errors of the target, after subtraction of the shift that the finite time step "
        f"alone causes, and the errors are at most {thresholds.max_temperature_error:g} K; unsafe "
        "if any species is beyond three standard errors. Motion: safe if diffusion is at least "
        f"{thresholds.min_diffusion_ratio:.0%} of that with conservative forces and weak global "
        "velocity rescaling. Optimization: safe if at least "
        f"{thresholds.min_success:.0%} of the starts end at a minimum. Time step: safe if it makes "
        f"no species colder by more than {thresholds.max_step_shift:g} K. Outer step: unsafe from "
        "half of the shortest vibrational period, at which impulses resonate; safe up to 0.8 of "
        "that. Anything in between is not shown; a longer simulation may decide it."
    )


def _provenance(report: Report) -> str:
    facts = dict(report["provenance"]) | {
        "seed": report["conditions"]["seed"],
        "equilibration_ps": report["conditions"]["equilibration_ps"],
        "atoms_sha256": report["atoms"]["sha256"],
        "wall_minutes": round(report["wall_s"] / 60.0, 1),
    }
    rows = tuple((name.replace("_", " "), str(value)) for name, value in facts.items())
    return html_of(ReportTable(("property", "value"), rows)) + (
        '<p class="note">For definitions see Bigi, Langer, Ceriotti, arXiv:2412.11569. All numbers '
        "are in report.json beside this page.</p>"
    )
