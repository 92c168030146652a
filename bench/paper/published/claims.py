"""Statements of the paper, and rules that decide whether published models agree with them.

A verdict is "yes", "no", or "not shown" if errors are too large or a run is missing. Deviations
within two errors count as agreement if the errors are small enough to tell, and those beyond three
as a difference. Errors are statistical only.
"""

from collections.abc import Iterator, Mapping

from bench.paper import reference
from bench.paper.claims import MAX_ERROR_K, Claim
from bench.paper.comparisons import MEV_PER_KELVIN
from twinforce.assess import Conditions
from twinforce.assess.report.content import Report, resonance_of, unit_of
from twinforce.assess.report.formatting import estimate, with_error
from twinforce.assess.report.verdict import Thresholds

# A quantity agrees in size if it is within this factor of the paper's.
FACTOR = 2.0
DIRECT, SMALL, CRYSTAL = "orb", "orb-water16", "orb-silicon"
HYBRID = "mace-orb"
CONTROLS = ("mace-silicon", "sevennet")
SVR = "svr:10"


def claims_of(reports: Mapping[str, Report]) -> list[Claim]:
    """Return all claims, from the reports by the names of their entries."""
    direct, small, crystal, hybrid = (
        reports.get(name) or _no_report(name) for name in (DIRECT, SMALL, CRYSTAL, HYBRID)
    )
    found = [_lambda(direct), *_heating(direct), *_species(direct), _mean(direct)]
    found += [_unconverged(small), _f(small)]
    found += [_crystal(crystal), _work(crystal), _unconverged(crystal), _steady(crystal)]
    for name in CONTROLS:
        control = reports.get(name) or _no_report(name)
        found += [_steady(control), _minima(control)]
    return [*found, _equipartition(hybrid), _undistilled(hybrid)]


def _no_report(name: str) -> Report:
    """Return the report of a model that was not run."""
    limit = Thresholds.at(Conditions().temperature_k).max_drift
    return {
        "provenance": {"model": name},
        "thresholds": {"max_drift": limit},
        "atoms": {"counts": {}},
        "pieces": {},
    }


def _lambda(report: Report) -> Claim:
    value = unit_of(report, "lambda:server").get("lambda")
    theirs = reference.LAMBDAS["ORB-v2"]
    text = f"ORB, direct forces: λ is within a factor of {FACTOR:g} of that of ORB-v2, {theirs:g}"
    if value is None:
        return Claim(text, "not shown", "")
    agrees = theirs / FACTOR <= value <= theirs * FACTOR
    return Claim(text, "yes" if agrees else "no", f"{value:.4f}")


def heating_of(report: Report, key: str = "nve:direct") -> tuple[float, float] | None:
    """Return the heating rate for the heat capacity of a harmonic solid, and its error, in K/ps."""
    drift = unit_of(report, key).get("drift")
    if drift is None:
        return None
    return drift["rate"] / MEV_PER_KELVIN, drift["error"] / MEV_PER_KELVIN


def _heating(report: Report) -> Iterator[Claim]:
    theirs = reference.ORB_HEATING_K_PER_PS
    texts = (
        "ORB, direct forces without a thermostat: the system heats",
        f"ORB, direct forces: the rate is within a factor of {FACTOR:g} of the paper's, about "
        f"{theirs:g} K/ps",
    )
    found = heating_of(report)
    if found is None:
        yield from (Claim(text, "not shown", "") for text in texts)
        return
    rate, error = found
    shown = f"{with_error(rate, error, signed=True)} K/ps"
    yield Claim(texts[0], beyond(rate, error), shown)
    low, high = theirs / FACTOR, theirs * FACTOR
    yield Claim(texts[1], within(rate, error, low, high), shown)


def _crystal(report: Report) -> Claim:
    """Return the claim about a crystal, of which the paper gives no number."""
    text = "ORB, direct forces, silicon without a thermostat: the total energy drifts"
    drift = unit_of(report, "nve:direct").get("drift")
    if drift is None:
        return Claim(text, "not shown", "")
    shown = f"{with_error(drift['rate'], drift['error'], signed=True)} meV/atom/ps"
    return Claim(text, beyond(abs(drift["rate"]), drift["error"]), shown)


def _work(report: Report) -> Claim:
    """Return the claim that direct forces do work around closed paths."""
    text = "ORB, direct forces, silicon: closed paths take work"
    found = unit_of(report, "loops").get("direct")
    if not found or found["error_mev_per_atom"] is None:
        return Claim(text, "not shown", "")
    value, error = found["rms_work_mev_per_atom"], found["error_mev_per_atom"]
    noise = found["quadrature_error_mev_per_atom"]
    shown = f"{with_error(value, error)} meV/atom, quadrature error {noise:.2g}"
    return Claim(text, beyond(value - noise, error), shown)


def _species(report: Report) -> Iterator[Claim]:
    for symbol, theirs in reference.ORB_SPECIES_K.items():
        word = "hot" if theirs > 0 else "cold"
        key = f"nvt:direct:{SVR}"
        found = deviation(report, key, symbol)
        texts = (
            f"ORB, direct forces, SVR, τ = 10 fs: {symbol} is {word}",
            f"ORB, direct forces, SVR, τ = 10 fs: {symbol} deviates by {theirs:+g} K, within two "
            "errors",
        )
        if found is None:
            yield from (Claim(text, "not shown", "") for text in texts)
            continue
        value, error, is_reliable = found
        length = unit_of(report, key)["picoseconds"]
        shown = (
            f"{with_error(value, error, signed=True)} K{'' if is_reliable else ' ?'} in "
            f"{length:.2g} ps"
        )
        sign = 1.0 if theirs > 0 else -1.0
        yield Claim(texts[0], beyond(sign * value, error) if is_reliable else "not shown", shown)
        yield Claim(
            texts[1],
            near(value - theirs, error, abs(theirs) / 3.0) if is_reliable else "not shown",
            shown,
        )


def _mean(report: Report) -> Claim:
    text = (
        "ORB, direct forces, SVR, τ = 10 fs: the mean temperature is within two errors of the "
        f"paper's {reference.TEMPERATURES['ORB direct; SVR, τ = 10 fs'][0]} K above the target"
    )
    theirs = float(reference.TEMPERATURES["ORB direct; SVR, τ = 10 fs"][0])
    unit = unit_of(report, f"nvt:direct:{SVR}")
    each = unit.get("temperature")
    if not each or each["error"] is None:
        return Claim(text, "not shown", "")
    value = each["value"] - report["conditions"]["temperature_k"]
    mark = "" if each["is_reliable"] else " ?"
    shown = (
        f"{with_error(value, each['error'], signed=True)} K{mark} in {unit['picoseconds']:.2g} ps"
    )
    if mark:
        return Claim(text, "not shown", shown)
    return Claim(text, near(value - theirs, each["error"], MAX_ERROR_K), shown)


def _unconverged(report: Report) -> Claim:
    """Return the claim about optimizations on direct forces.

    Where they end is not judged: the gradient of ORB's energy was not trained.
    """
    name, unit = report["provenance"]["model"], unit_of(report, "optimise:direct")
    text = f"`{name}`, direct forces: some optimizations do not converge"
    n_done = unit.get("n_done", 0)
    if not n_done:
        return Claim(text, "not shown", "")
    n_reported = round(unit["believed_rate"] * n_done)
    return Claim(
        text, "yes" if n_reported < n_done else "no", f"{n_reported} of {n_done} converged"
    )


def _minima(report: Report) -> Claim:
    """Return the claim about optimizations on conservative forces."""
    name, unit = report["provenance"]["model"], unit_of(report, "optimise:conservative")
    text = f"`{name}`, conservative forces: every optimization converges to a minimum"
    n_done = unit.get("n_done", 0)
    if not n_done:
        return Claim(text, "not shown", "")
    n_minima = round(unit["success_rate"] * n_done)
    return Claim(text, "yes" if n_minima == n_done else "no", f"{n_minima} of {n_done}")


def _f(report: Report) -> Claim:
    found = unit_of(report, "cost").get("f")
    text = (
        f"ORB, water: a conservative evaluation costs about {reference.F:g} direct ones (within "
        "20%)"
    )
    if not found or found["error"] is None:
        return Claim(text, "not shown", "")
    holds = within(found["value"], found["error"], 0.8 * reference.F, 1.2 * reference.F)
    return Claim(text, holds, f"F = {estimate(found)}")


def _steady(report: Report) -> Claim:
    """Return the claim that the total energy does not drift with conservative forces."""
    name = report["provenance"]["model"]
    limit = report["thresholds"]["max_drift"]
    text = f"`{name}`, conservative forces: no drift without a thermostat (below {limit:g})"
    drift = unit_of(report, "nve:conservative").get("drift")
    if drift is None:
        return Claim(text, "not shown", "")
    rate, error = drift["rate"], drift["error"]
    shown = f"{with_error(rate, error, signed=True)} meV/atom/ps"
    return Claim(text, within(rate, error, -limit, limit), shown)


def _equipartition(report: Report) -> Claim:
    name = report["provenance"]["model"]
    key = f"nvt:conservative:{SVR}"
    text = f"`{name}`, conservative forces, SVR, τ = 10 fs: each species is at the target"
    found = {each: deviation(report, key, each) for each in report["atoms"]["counts"]}
    known = {symbol: each for symbol, each in found.items() if each is not None}
    shown = ", ".join(
        f"{symbol} {with_error(value, error, signed=True)} K{'' if good else ' ?'}"
        for symbol, (value, error, good) in known.items()
    )
    if not known or len(known) < len(found) or not all(good for *_, good in known.values()):
        return Claim(text, "not shown", shown)
    verdicts = {near(value, error, MAX_ERROR_K) for value, error, _ in known.values()}
    order = ("no", "not shown", "yes")
    return Claim(text, next(each for each in order if each in verdicts), shown)


def _undistilled(report: Report) -> Claim:
    """Return the claim that direct forces of another model cannot be inner forces."""
    drifts, limit = resonance_of(report).get("drifts"), report["thresholds"]["max_drift"]
    text = (
        "Direct forces of ORB as inner forces of MACE, undistilled: the predicted drift exceeds "
        f"{limit:g} meV/atom/ps for every M"
    )
    if not drifts:
        return Claim(text, "not shown", "")
    inner_steps, best = min(drifts.items(), key=lambda each: each[1]["value"])
    shown = (
        f"{estimate(best)} at best, with M = {inner_steps} of {min(map(int, drifts))} to "
        f"{max(map(int, drifts))}"
    )
    if best["error"] is None:
        return Claim(text, "not shown", shown)
    return Claim(text, beyond(best["value"] - limit, best["error"]), shown)


def deviation(report: Report, key: str, symbol: str) -> tuple[float, float, bool] | None:
    """Return the deviation of a species from the target, its error, both in K, and its reliability.

    The shift that the finite time step causes is not subtracted, as in the paper.
    """
    each = unit_of(report, key).get("species_temperatures", {}).get(symbol)
    if not each or each["value"] is None or not each["error"]:
        return None
    target = report["conditions"]["temperature_k"]
    return each["value"] - target, each["error"], bool(each["is_reliable"])


def beyond(value: float, error: float) -> str:
    """Return whether a value is positive: "yes" beyond three errors, "no" below minus three."""
    if value > 3.0 * error:
        return "yes"
    return "no" if value <= -3.0 * error else "not shown"


def near(difference: float, error: float, sharp: float) -> str:
    """Return whether a difference is zero: "yes" within two errors, "no" beyond three.

    Args:
        difference: The difference of two values.
        error: Its standard error.
        sharp: Largest error with which the answer can be yes.
    """
    if abs(difference) > 3.0 * error:
        return "no"
    return "yes" if abs(difference) <= 2.0 * error and error <= sharp else "not shown"


def within(value: float, error: float, low: float, high: float) -> str:
    """Return whether a value lies in a range, by two errors; "no" if it lies outside by three."""
    if low <= value - 2.0 * error and value + 2.0 * error <= high:
        return "yes"
    is_outside = value + 3.0 * error < low or value - 3.0 * error > high
    return "no" if is_outside else "not shown"
