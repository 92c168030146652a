"""The report of a distillation as one self-contained HTML page."""

import re
from collections.abc import Mapping
from html import escape
from typing import Any

import matplotlib as mpl

from twinforce.assess.report.formatting import ReportTable, estimate, number, with_error
from twinforce.assess.report.page import STYLE, SVG_STYLE, drawn, html_of, svg_of
from twinforce.assess.report.tables import TABLES
from twinforce.distill.results.figures import FIGURES

_MORE_STYLE = """
pre { background: var(--card); border-radius: 6px; padding: .8rem 1rem; overflow-x: auto;
  font-size: .82rem; } ul { padding-left: 1.2rem; } li { margin: .3rem 0; }
"""
_RULES = (
    "A number of inner steps M is a candidate if its predicted drift plus two errors is at most "
    "{limit:g} meV/atom/ps and its outer step is shorter than half of the shortest vibrational "
    "period. The fastest candidate is tested by a real run without a thermostat, and replaced by "
    "the next if that refutes it. An M is shown if the drift of the real run plus two errors is "
    "within the limit, and refuted if the drift minus two errors exceeds it. All rules are at the "
    "top of recommendation.py."
)


def page_of(report: Mapping[str, Any], assessment: Mapping[str, Any]) -> str:
    """Return the HTML page of a report.

    Args:
        report: Report from `report_of`.
        assessment: Report of the assessment of multiple time stepping.
    """
    teacher = escape(report["teacher"]["given"])
    parts = [
        f"<h1>A hybrid distilled from {teacher}</h1>",
        f'<p class="lead">{escape(_lead(report))}</p>',
        _recommendation(report),
        _commands(report),
        "<h2>Errors of the forces on unseen systems</h2>",
        _errors(report),
        _figure(report, "learning"),
        "<h2>Speed</h2>",
        _figure(report, "speed"),
        _speeds(report),
        _assessed(assessment, "cost", figures=False),
        "<h2>Drift without a thermostat</h2>",
        _assessed(assessment, "resonance"),
        _assessed(assessment, "nve"),
        "<h2>Temperatures with a thermostat</h2>",
        _assessed(assessment, "nvt"),
        "<h2>Not shown</h2>",
        _list(report["not_shown"]),
        "<h2>Rounds of sampling and training</h2>",
        _rounds(report),
        "<h2>Rules of the recommendation</h2>",
        f"<p>{escape(_RULES.format(limit=report['evidence']['max_drift']))}</p>",
        "<h2>Provenance</h2>",
        _provenance(report),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{teacher}: distilled hybrid</title><style>{STYLE}{_MORE_STYLE}</style></head>\n"
        f"<body><main>\n{chr(10).join(parts)}\n</main></body></html>\n"
    )


def _lead(report: Mapping[str, Any]) -> str:
    system, settings = report["system"], report["settings"]
    temperatures = ", ".join(f"{each:g}" for each in settings["temperatures_k"])
    n_labels = sum(each["n_train"] for each in report["rounds"])
    return (
        f"{system['n_atoms']} atoms ({system['formula']}) at {temperatures} K, inner steps of "
        f"{settings['time_step_fs']:g} fs. A small network was trained for "
        f"{sum(each['training_s'] for each in report['rounds']) / 60.0:.1f} minutes on {n_labels} "
        f"systems that the teacher labeled; everything took {report['wall_s'] / 60.0:.1f} minutes."
    )


def _recommendation(report: Mapping[str, Any]) -> str:
    lines = "".join(f"<p>{_marked(each)}</p>" for each in report["recommendation"]["reasons"])
    return f'<section class="verdict">{lines}</section>'


def _marked(sentence: str) -> str:
    """Return a sentence as HTML, with what is not shown in its color."""
    return re.sub(r"\bnot shown\b", '<span class="not">not shown</span>', escape(sentence))


def _commands(report: Mapping[str, Any]) -> str:
    titles = {
        "serve": "Serve the hybrid",
        "simulate": "Simulate with it",
        "assess": "Measure more (with the service running)",
    }
    return "".join(
        f"<p>{titles[name]}:</p><pre>{escape(command)}</pre>"
        for name, command in report["commands"].items()
    )


def _errors(report: Mapping[str, Any]) -> str:
    rounds = sorted(report["errors"], key=int)
    last = report["errors"][rounds[-1]]
    kinds = [kind for kind in ("direct_forces", "conservative_forces") if kind in last]
    names = ["all", *last["size"]["species"]]
    rows = [
        (name, *(_in_mev(_of(last[kind], name)) for kind in (*kinds, "size"))) for name in names
    ]
    headers = (
        "atoms",
        *(f"{kind.replace('_', ' ')}, meV/Å" for kind in kinds),
        "forces themselves, meV/Å",
    )
    energy = last["energy"]
    λ = report["lambda"]
    text = (
        f"Mean absolute errors of the student, root mean squares in parentheses, on "
        f"{last['n_systems']} systems of runs that it was not trained on. Its energy errs by "
        f"{1e3 * energy['mae']:.2f} ({1e3 * energy['rmse']:.2f}) meV/atom. Its direct forces are "
        f"{'at an unknown distance' if λ is None else f'λ = {λ:.4f}'} from a gradient. Under the "
        "teacher only the direct forces are used."
    )
    return f"<p>{escape(text)}</p>" + html_of(ReportTable(headers, tuple(rows)))


def _of(errors: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the errors of a species, or those of all atoms."""
    found: Mapping[str, Any] = errors if name == "all" else errors["species"][name]
    return found


def _in_mev(found: Mapping[str, Any]) -> str:
    return f"{1e3 * found['mae']:.1f} ({1e3 * found['rmse']:.1f})"


def _speeds(report: Mapping[str, Any]) -> str:
    rows = tuple(
        (
            m,
            f"{each['outer_fs']:g}",
            number(each["speed_up"], ".2f", "no time")
            + ("" if each["is_timed"] else " (computed)"),
            estimate(each["predicted"]),
            _drift(each["run"]),
            each["reason_against"] or ("refuted" if each["standing"] == "refuted" else "-"),
        )
        for m, each in report["inner_steps"].items()
    )
    headers = (
        "M",
        "outer step, fs",
        "speed over the teacher alone",
        "predicted drift, meV/atom/ps",
        "drift of a real run",
        "reason against it",
    )
    return html_of(ReportTable(headers, rows))


def _drift(run: Mapping[str, Any] | None) -> str:
    if run is None:
        return "-"
    drift = run.get("drift")
    return with_error(drift["rate"], drift["error"], signed=True) if drift else str(run["status"])


def _assessed(assessment: Mapping[str, Any], piece: str, *, figures: bool = True) -> str:
    """Return figures and tables of a piece of the assessment."""
    if not assessment["pieces"].get(piece):
        return "<p>Nothing was measured.</p>"
    shown = "".join(f"<figure>{svg}</figure>" for _, svg in drawn(assessment, piece))
    tables = "".join(html_of(make(assessment)) for make in TABLES[piece])
    return (shown if figures else "") + tables


def _figure(report: Mapping[str, Any], name: str) -> str:
    with mpl.rc_context(SVG_STYLE):
        figure = FIGURES[name](report)
        return "" if figure is None else f"<figure>{svg_of(figure, name)}</figure>"


def _rounds(report: Mapping[str, Any]) -> str:
    rows = []
    for each in report["rounds"]:
        differences = [w["disagreement"] for w in each["walkers"] if w["disagreement"] is not None]
        notes = {w["note"] for w in each["walkers"] if w["note"]}
        if any(w["is_fallback"] for w in each["walkers"]):
            notes.add("some walkers went on with the teacher alone")
        rows.append(
            (
                str(each["number"]),
                f"student, M = {each['inner_steps']}" if each["inner_steps"] > 1 else "teacher",
                f"{len(each['walkers'])}, {sum(w['picoseconds'] for w in each['walkers']):.3g}",
                f"{each['n_sampled']}",
                f"{each['n_train']} + {each['n_test']}",
                f"{1e3 * max(differences):.0f}" if differences else "-",
                f"{each['sampling_s'] / 60.0:.1f}",
                f"{each['training_s'] / 60.0:.1f}",
                "; ".join(sorted(notes)),
            )
        )
    headers = (
        "round",
        "driven by",
        "walkers, total ps",
        "labels",
        "kept for training + tests",
        "largest force difference (rms), meV/Å",
        "sampling, min",
        "training, min",
        "note",
    )
    return html_of(ReportTable(headers, tuple(rows)))


def _list(sentences: list[str]) -> str:
    items = "".join(f"<li>{escape(each)}</li>" for each in sentences)
    return f"<ul>{items}</ul>"


def _provenance(report: Mapping[str, Any]) -> str:
    facts = {f"teacher: {name}": value for name, value in report["teacher"].items()}
    facts |= {
        name: value
        for name, value in report["settings"].items()
        if name not in ("teacher", "service", "training_flags")
    }
    facts |= {"wall minutes": round(report["wall_s"] / 60.0, 1), "written": report["written"]}
    rows = tuple((name.replace("_", " "), _shown(value)) for name, value in facts.items())
    return html_of(ReportTable(("property", "value"), rows)) + (
        '<p class="note">All numbers are in report.json beside this page; the complete assessment '
        "is assessment/report.html.</p>"
    )


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
