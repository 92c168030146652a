"""The page about the attacks, made from what was measured."""

# `/health/live` is to be answered within this time through every attack, in ms.
MAX_LIVE_MS = 50.0

_HEAD = """\
# Attacks

`make attacks` does to a service, in processes of its own, what somebody could do who wants to keep it
from others. The attacker comes from another address than a probe, which asks for `/health/live`
every 5 ms. *Before* is the service before there were bounds, time limits and fair turns. Memory is
what all processes of the service took at most beyond what they had.

| attack | p99 of live / ms: before | now | CPU / s: before | now | memory / MB: before | now | outcome: before | now |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""  # noqa: E501
_TAIL = """
{verdict}

## What others notice

| what was done | before | now |
| --- | --- | --- |
| one client keeps 16 calls of 32 systems in flight, another one asks for one system at a time | its median of 15 ms became 6,900 ms; the worst was 15.5 s | {fairness} |
| the engine process is stopped, as by a GPU that hangs, for 30 and 75 s | ready all the time; walkers ended with errors; SIGTERM took 30 s | noticed in seconds, and replaced; nothing is lost: [faults](chaos.md) |
| the server is killed and started again | clients gave up, unless they were told to try many times | nothing is lost: [faults](chaos.md) |
| anybody on the network | no keys, no TLS, any urgency, metrics and documentation open, names not checked | [security](security.md) |

Measured on {machine}, at a load of about {load:.0f} with other work, and kept in
[attacks.json](attacks.json); before, in [before.json](../tests/attacks/before.json).
{note}"""  # noqa: E501


def page(data, before):
    """Return the page as Markdown.

    Args:
        data: Measurements, the machine and its load.
        before: Measurements before there were bounds, by attack.
    """
    attacks = data["attacks"]
    rows = (row(title, before.get(title, {}), now) for title, now in attacks.items())
    slow = [title for title, now in attacks.items() if now["p99_ms"] >= MAX_LIVE_MS]
    verdict = f"`/health/live` stays below {MAX_LIVE_MS:.0f} ms (p99) through all of them."
    if slow:
        verdict = f"`/health/live` is above {MAX_LIVE_MS:.0f} ms (p99) in: {'; '.join(slow)}."
    tail = _TAIL.format(
        verdict=verdict,
        fairness=_fairness(data["fairness"]),
        machine=data["machine"],
        load=data["load"],
        note=f"\n{data['note']}\n" if data.get("note") else "",
    )
    return _HEAD + "".join(rows) + tail


def row(title, then, now):
    """Return a row of the table."""
    pairs = [
        (_number(each.get("p99_ms")), _number(each.get("cpu_s"), 1), _number(each.get("peak_mb")))
        for each in (then, now)
    ]
    if now["p99_ms"] >= MAX_LIVE_MS:
        pairs[1] = (f"**{pairs[1][0]}**", *pairs[1][1:])
    numbers = " | ".join(" | ".join(pair) for pair in zip(*pairs, strict=True))
    failed = f"; {now['n_failed']} probes failed" if now["n_failed"] else ""
    return f"| {title} | {numbers} | {then.get('outcome', '')} | {now['outcome']}{failed} |\n"


def _number(value, digits=0):
    return "" if value is None else f"{value:.{digits}f}"


def _fairness(found):
    times = found["beside_ms"] / found["alone_ms"]
    return (
        f"its median of {found['alone_ms']:.0f} ms becomes {found['beside_ms']:.0f} ms "
        f"({times:.1f} times); the worst is {found['worst_ms']:.0f} ms"
    )
