"""Attacks on a service in processes of its own, each measured: `python -m tests.attacks [names]`.

Each module is one attack: `TITLE`, and `attack(victim)`, which returns its outcome as text.
Attackers come from 127.0.0.2, and the probe of `/health/live` from 127.0.0.1.
"""
