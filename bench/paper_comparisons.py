"""How our numbers compare with those of the paper, in sentences that follow from both by rule."""

from collections.abc import Iterator, Mapping
from typing import Any

from bench import paper_numbers as paper
from bench.learning import last_errors
from bench.paper_claims import unit_of
from twinforce.assess.report.formatting import estimate, with_error
from twinforce_models.training.plots import Rows

Report = Mapping[str, Any]
# 3 k per atom: what a harmonic solid takes to warm by one kelvin, in meV/atom.
MEV_PER_KELVIN = 3 * 0.0861733


def comparisons(
    report: Report, errors: Mapping[str, float], logs: Mapping[str, Rows]
) -> Iterator[str]:
    """Yield sentences on how our numbers compare with the paper's; each only if there are any."""
    yield from _compare_lambda(report)
    yield from _compare_heating(report)
    yield from _compare_species(report)
    yield from _compare_slowing(report)
    yield from _compare_f(report)
    yield from _compare_training(logs)
    if errors:
        ours = errors["direct_forces_mae_mev_per_angstrom"]
        ratio = ours / errors["conservative_forces_mae_mev_per_angstrom"]
        yield (
            f"Errors: direct forces are {ratio:.2f} times as far from the labels as conservative "
            f"ones; PET-M's are {26.7 / 20.2:.2f} times as far."
        )


def _compare_lambda(report: Report) -> Iterator[str]:
    ours = unit_of(report, "lambda:server").get("lambda")
    if ours is None:
        return
    below = [name for name, value in paper.LAMBDAS.items() if value < ours]
    above = [name for name, value in paper.LAMBDAS.items() if value >= ours]
    parts = [
        f"{word} {', '.join(names)}"
        for word, names in (("above", below), ("not above", above))
        if names
    ]
    yield f"λ = {ours:.4f} on this system: {'; '.join(parts)}."
    other = unit_of(report, "lambda:client").get("direct", {}).get("lambda")
    if other is not None:
        yield f"The two routes to λ differ by {abs(other / ours - 1):.1%}."


def _compare_heating(report: Report) -> Iterator[str]:
    drift = unit_of(report, "nve:direct").get("drift")
    if drift is None:
        return
    rate, error = drift["rate"] / MEV_PER_KELVIN, drift["error"] / MEV_PER_KELVIN
    times = rate / paper.HEATING_K_PER_PS
    yield (
        f"Direct forces without a thermostat: {with_error(rate, error)} K/ps if all of it were "
        f"harmonic (3 k per atom), {times:.1f} times what the paper has for PET direct."
    )
    apart = unit_of(report, "nve:hybrid-8").get("rmse", {}).get("value")
    if apart is not None:
        yield (
            f"Both forces of this model are {apart * 1e3:.0f} meV/Å apart (root mean square, MTS "
            "with M = 8); the paper gives no such number."
        )


def _compare_species(report: Report) -> Iterator[str]:
    unit = unit_of(report, "nvt:direct:svr:10")
    temperatures = unit.get("species_temperatures")
    if not temperatures:
        return
    target = report["conditions"]["temperature_k"]
    signs = {}
    for symbol in ("H", "O"):
        each = temperatures.get(symbol, {})
        if (
            each.get("error")
            and each["is_reliable"]
            and abs(each["value"] - target) > 3 * each["error"]
        ):
            signs[symbol] = "hot" if each["value"] > target else "cold"
    if signs:
        found = ", ".join(f"{symbol} is {word}" for symbol, word in signs.items())
        yield f"Direct forces with SVR, τ = 10 fs: {found} here; with PET, H is cold and O is hot."
    else:
        yield "Direct forces with SVR, τ = 10 fs: no species is shown to deviate; with PET both do."


def _compare_slowing(report: Report) -> Iterator[str]:
    reference = None
    for key in ("nvt:conservative:svr:10", "nvt:hybrid-8:svr:100", "nvt:hybrid-8:svr:10"):
        found = unit_of(report, key).get("diffusion", {}).get("O", {})
        if reference is None and found.get("is_reliable") and found["value"] > 0:
            reference = (key, found["value"])
    if reference is None:
        return
    for relaxation, theirs in paper.SLOWING.items():
        for way in ("direct", "hybrid-8", "conservative"):
            key = f"nvt:{way}:langevin:{relaxation:g}"
            found = unit_of(report, key).get("diffusion", {}).get("O", {})
            if found.get("is_reliable") and found["value"] > 0:
                yield (
                    f"`{key}` slows the diffusion of O {reference[1] / found['value']:.1f} times "
                    f"against `{reference[0]}`; the paper has {theirs:g} times for this τ."
                )


def _compare_f(report: Report) -> Iterator[str]:
    found = unit_of(report, "cost").get("f")
    if found:
        relation = "below" if found["value"] < paper.F else "not below"
        yield (
            f"F = {estimate(found)} over the wire here, {relation} the paper's {paper.F:g}; what "
            "multiple time stepping can save is bounded by it."
        )


def _compare_training(logs: Mapping[str, Rows]) -> Iterator[str]:
    for name, control in (("water", "water_control"), ("water_short", "water_short_control")):
        if name in logs and control in logs:
            with_, without = last_errors(logs[name]), last_errors(logs[control])
            yield (
                f"Direct pre-training (`{name}`): {with_['conservative']:.1f} meV/Å after "
                f"{with_['minutes']:.0f} CPU minutes, {without['conservative']:.1f} after "
                f"{without['minutes']:.0f} without (`{control}`); the paper saves "
                f"{paper.TRAINING_SAVING:g} times."
            )
