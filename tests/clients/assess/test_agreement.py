"""The agreement of simulations with those of conservative forces, in reports of known numbers."""

import numpy as np
import pytest

from twinforce.assess.report.agreement import (
    agreement_table,
    difference,
    radial_agreement,
    reference_of,
)

WAVE_NUMBERS = np.arange(0.0, 4001.0, 50.0)


def estimate(value, error, is_reliable=True):
    return {"value": value, "error": error, "is_reliable": is_reliable}


def radial(values, error=0.1):
    values = np.asarray(values, dtype=float)
    return {"values": values.tolist(), "errors": [error] * len(values)}


def spectrum(peak, halves=None):
    density = np.exp(-(((WAVE_NUMBERS - peak) / 200.0) ** 2))
    found = {"wave_numbers": WAVE_NUMBERS.tolist(), "density": density.tolist()}
    return found if halves is None else found | {"repeatability": halves}


def unit(temperature, *, peak=3000.0, values=(0.0, 1.0, 2.0, 1.0), diffusion=0.3, halves=None):
    return {
        "status": "done",
        "species_temperatures": {"H": estimate(temperature, 1.5)},
        "diffusion": {"H": estimate(diffusion, 0.03)},
        "spectra": {"H": spectrum(peak, halves)},
        "radial": {"H-H": radial(values)},
    }


def report(**units):
    nvt = {f"nvt:{key.replace('_', ':', 1)}": each for key, each in units.items()}
    nvt = {key.replace("hybrid8", "hybrid-8").replace("_", ":"): each for key, each in nvt.items()}
    return {"atoms": {"counts": {"H": 2}}, "pieces": {"nvt": nvt}}


def test_each_simulation_is_compared_with_the_one_of_its_thermostat():
    found = report(conservative_langevin_100=unit(300), conservative_svr_10=unit(300))
    found["pieces"]["nvt"] |= {
        "nvt:hybrid-8:svr:10": unit(300),
        "nvt:direct:svr:100": unit(300),
    }
    assert reference_of(found, "nvt:hybrid-8:svr:10") == "nvt:conservative:svr:10"
    assert reference_of(found, "nvt:direct:svr:100") == "nvt:conservative:langevin:100"
    assert reference_of(report(direct_svr_10=unit(300)), "nvt:direct:svr:10") is None


def test_errors_of_a_difference_add_in_squares():
    found = difference(estimate(303.0, 3.0), estimate(300.0, 4.0, is_reliable=False))
    assert found == {"value": 3.0, "error": 5.0, "is_reliable": False}
    assert difference(estimate(None, None), estimate(1.0, 0.1))["value"] is None


def test_radial_distributions_differ_where_they_do_beyond_their_errors():
    one, other = radial([0.0, 1.0, 2.0, 1.0]), radial([0.1, 1.2, 2.5, 0.0])
    found = radial_agreement(one, other)
    assert found.share == pytest.approx(0.5)  # 0.5 and 1 exceed twice 0.14
    assert found.largest == pytest.approx(1.0)
    assert radial_agreement(radial([0.0] * 4, 0.0), radial([0.0] * 4, 0.0)) is None


def test_the_table_shows_differences_from_conservative_forces():
    found = report(
        conservative_svr_10=unit(300, halves=0.95),
        hybrid8_svr_10=unit(302, diffusion=0.36),
        direct_svr_10=unit(340, peak=3600.0, values=(0.0, 1.0, 1.5, 1.0)),
    )
    table = agreement_table(found)
    assert [row[1:] for row in table.rows] == [
        ("+2 ± 2", "+0.06 ± 0.04", "1.000 (0.950)", "0%, 0.00"),
        ("+40 ± 2", "+0.00 ± 0.04", table.rows[1][3], "25%, 0.50"),
    ]
    assert float(table.rows[1][3].split()[0]) < 0.1
    assert len(table.headers) == len(table.rows[0])
    assert not agreement_table(report(direct_svr_10=unit(300))).rows
