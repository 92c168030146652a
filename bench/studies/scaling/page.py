"""The page docs/scaling.md, made from the data of the simulation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.studies.scaling import starts

_TEXT = Path(__file__).with_name("page.txt")

Data = Mapping[str, Any]


def page(data: Data) -> str:
    """Return the page as Markdown."""
    return _TEXT.read_text(encoding="utf-8").format_map(
        _decisions(data) | _model(data) | _tables(data)
    )


def _decisions(data: Data) -> dict[str, Any]:
    loss, sticking, scaling = data["zone_loss"], data["sticking"], data["autoscaling"]
    largest = data["starts"][-1]
    looking = sticking["two choices, a look every 5 min"]
    never = _settled(sticking["two choices, never looking"])
    return {
        "utilization_hours": scaling["utilization"]["replica_hours"]
        / scaling["queue atoms"]["replica_hours"],
        "one_less": 100.0
        * (
            scaling["queue atoms, one replica less per minute"]["replica_hours"]
            / scaling["queue atoms"]["replica_hours"]
            - 1.0
        ),
        "two_fullest": loss["two choices"]["fullest_over_mean"],
        "least_fullest": loss["the least loaded of all"]["fullest_over_mean"],
        "quick_p99": loss["at random"]["p99_s"],
        "slow_p99": loss["at random, 8 s to connect"]["p99_s"],
        "herd_lookups": loss["at random, all at once"]["lookups_per_s"],
        "spread_lookups": loss["at random, all at once, look-ups within 5 s"]["lookups_per_s"],
        "look_minutes": _settled(looking),
        "no_look_minutes": f"{never:.0f}",
        "moves": looking["moves_per_walker_and_hour"],
        "n_starting": largest["n_starting"],
        "shared_start": largest["cached_s"],
        "own_start": largest["own_copy_s"],
    }


def _model(data: Data) -> dict[str, Any]:
    parameters = data["parameters"]
    pet = parameters["PET"]
    readings = [each for each in data["replica"]["PET"] if each["n_walkers"] >= 32]
    deviations = [
        abs(
            (pet["client_s"] + pet["per_step_s"] + pet["fixed_s"])
            + pet["per_atom_s"] * each["n_atoms"]
            - each["step_s"]
        )
        / each["step_s"]
        for each in readings
    ]
    return {
        "per_step_ms": 1e3 * pet["per_step_s"],
        "max_batch_atoms": pet["max_batch_atoms"],
        "models": "".join(
            f"| {name} | {1e3 * each['fixed_s']:.2f} | {1e6 * each['per_atom_s']:.2f} |\n"
            for name, each in parameters.items()
        ),
        "client_ms": 1e3 * pet["client_s"],
        "median_atoms": pet["median_atoms"],
        "spread_atoms": pet["spread_atoms"],
        "median_run_min": pet["median_run_s"] / 60.0,
        "handshake_ms": 1e3 * pet["handshake_s"],
        "agreement": 100.0 * max(deviations),
        "target": 0.2 / (2.0 * pet["per_atom_s"]),
        "service_rate": 1.0 / pet["per_step_s"],
        "rate_target": 0.75 / pet["per_step_s"],
        "start_s": starts.START_S,
        "build_s": starts.BUILD_S,
        "bandwidth": starts.BANDWIDTH,
    }


def _tables(data: Data) -> dict[str, Any]:
    names = list(data["replica"])
    columns = [f"{name}: busy / % | atoms in the queue | step / ms" for name in names]
    walkers = data["autoscaling"]["queue atoms"]["walkers"]
    return {
        "header": " | ".join(columns),
        "rule": " | ".join(["---"] * 3 * len(names)),
        "readings": "".join(map(_reading, zip(*data["replica"].values(), strict=True))),
        "n_least": round(walkers[0], -2),
        "n_most": round(max(walkers), -2),
        "autoscaling": _rows(
            data["autoscaling"], ("mean_step_s", "worst_step_s", "late_percent", "replica_hours")
        ),
        "zone_loss": _rows(
            data["zone_loss"],
            (
                "median_s",
                "p99_s",
                "longest_s",
                "fullest_over_mean",
                "longest_line_s",
                "lookups_per_s",
            ),
        ),
        "sticking": "".join(
            f"| {name} | {_steps(row)} | "
            f"{_settled(row):.0f} | {row['moves_per_walker_and_hour']:g} |\n"
            for name, row in data["sticking"].items()
        ),
        "starts": "".join(
            f"| {row['weights_gb']:g} | {row['n_starting']} | {row['cached_s']:g} | "
            f"{row['building_s']:g} | {row['own_copy_s']:g} |\n"
            for row in data["starts"]
        ),
    }


def _reading(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        f"{100.0 * row['utilization']:.0f} | {row['queue_atoms']:,.0f} | {1e3 * row['step_s']:.1f}"
        for row in rows
    ]
    return f"| {rows[0]['n_walkers']} | {' | '.join(cells)} |\n"


def _rows(table: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> str:
    return "".join(
        f"| {title} | {' | '.join(f'{row[name]:,}' for name in names)} |\n"
        for title, row in table.items()
    )


def _settled(row: Mapping[str, Any]) -> float:
    """Return the minutes after which the mean step is within 5% of that in the end."""
    end = sum(row["mean_s"][-5:]) / 5.0
    late = [m for m, mean in zip(row["minutes"], row["mean_s"], strict=True) if mean > 1.05 * end]
    return float(max(late, default=0.0))


def _steps(row: Mapping[str, Any]) -> str:
    return " | ".join(f"{row['mean_s'][minute]:.3f}" for minute in (0, 5, 15, -1))
