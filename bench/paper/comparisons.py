"""Sentences that compare our numbers with those of the paper, derived from both by rules."""

from collections.abc import Iterator, Mapping

from bench.paper import reference
from bench.studies.learning import last_errors
from twinforce.assess.report.content import Report, unit_of
from twinforce.assess.report.formatting import estimate, with_error
from twinforce_models.training.plots import Rows

# Heat capacity of a harmonic solid, 3 k per atom, in meV/K.
MEV_PER_KELVIN = 3 * 0.0861733


def comparisons(
    report: Report, errors: Mapping[str, float], logs: Mapping[str, Rows]
) -> Iterator[str]:
    """Yield a sentence for each comparison whose numbers exist."""
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
            f"The error of direct forces is {ratio:.2f} times that of conservative forces; for "
            f"PET-M it is {26.7 / 20.2:.2f} times."
        )


def _compare_lambda(report: Report) -> Iterator[str]:
    ours = unit_of(report, "lambda:server").get("lambda")
    if ours is None:
        return
    below = [name for name, value in reference.LAMBDAS.items() if value < ours]
    above = [name for name, value in reference.LAMBDAS.items() if value >= ours]
    parts = [
        f"{relation} those of {', '.join(names)}"
        for relation, names in (("above", below), ("not above", above))
        if names
    ]
    yield f"λ = {ours:.4f} on this system is {' and '.join(parts)}."
    other = unit_of(report, "lambda:client").get("direct", {}).get("lambda")
    if other is not None:
        yield f"The two methods for λ differ by {abs(other / ours - 1):.1%}."


def _compare_heating(report: Report) -> Iterator[str]:
    drift = unit_of(report, "nve:direct").get("drift")
    if drift is None:
        return
    rate, error = drift["rate"] / MEV_PER_KELVIN, drift["error"] / MEV_PER_KELVIN
    factor = rate / reference.HEATING_K_PER_PS
    yield (
        f"Without a thermostat, direct forces heat by {with_error(rate, error)} K/ps (for the heat "
        f"capacity of a harmonic solid, 3 k per atom), {factor:.1f} times as fast as PET direct in "
        "the paper."
    )
    rmse = unit_of(report, "nve:hybrid-8").get("rmse", {}).get("value")
    if rmse is not None:
        yield (
            f"The direct and conservative forces of this model differ by {rmse * 1e3:.0f} meV/Å "
            "(root mean square, MTS with M = 8); the paper gives no such number."
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
        yield (
            "Direct forces with SVR, τ = 10 fs: no deviation of a species is shown here; with PET, "
            "H is cold and O is hot."
        )


def _compare_slowing(report: Report) -> Iterator[str]:
    base = None
    for key in ("nvt:conservative:svr:10", "nvt:hybrid-8:svr:100", "nvt:hybrid-8:svr:10"):
        found = unit_of(report, key).get("diffusion", {}).get("O", {})
        if base is None and found.get("is_reliable") and found["value"] > 0:
            base = (key, found["value"])
    if base is None:
        return
    for relaxation, theirs in reference.SLOWING.items():
        for way in ("direct", "hybrid-8", "conservative"):
            key = f"nvt:{way}:langevin:{relaxation:g}"
            found = unit_of(report, key).get("diffusion", {}).get("O", {})
            if found.get("is_reliable") and found["value"] > 0:
                yield (
                    f"Diffusion of O is {base[1] / found['value']:.1f} times slower with `{key}` "
                    f"than with `{base[0]}`; in the paper it is {theirs:g} times slower for this τ."
                )


def _compare_f(report: Report) -> Iterator[str]:
    found = unit_of(report, "cost").get("f")
    if found:
        relation = "below" if found["value"] < reference.F else "not below"
        yield (
            f"F = {estimate(found)} over the network here, {relation} the paper's {reference.F:g}; "
            "F limits the speed-up by multiple time stepping."
        )


def _compare_training(logs: Mapping[str, Rows]) -> Iterator[str]:
    name, control = "water_short", "water_short_control"
    if name in logs and control in logs:
        with_, without = last_errors(logs[name]), last_errors(logs[control])
        yield (
            f"With direct pre-training (`{name}`), the error of conservative forces is "
            f"{with_['conservative']:.1f} meV/Å after {with_['minutes']:.0f} CPU minutes; "
            f"without it (`{control}`), {without['conservative']:.1f} meV/Å after "
            f"{without['minutes']:.0f}, in one run each. In the paper it saves a factor of "
            f"{reference.TRAINING_SAVING:g}."
        )
