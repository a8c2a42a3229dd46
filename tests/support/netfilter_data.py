"""The recorded facts that several tests of the parsers read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

DATA = Path(__file__).parents[1] / "data"

BUILTIN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
CHAINS = (
    *("S", "ONE", "EMPTY", "A_CHAIN_NAME_LONGER_28CHARS"),
    *("ISTIO_INBOUND", "ISTIO_DIVERT", "ISTIO_TPROXY"),
)
"""The user chains that the rules of `grammar` stand in or jump to."""


@cache
def load(name: str) -> dict[str, Any]:
    with gzip.open(DATA / name, "rt") as file:
        loaded: dict[str, Any] = json.load(file)
    return loaded


def vectors() -> dict[str, Any]:
    return load("netfilter-vectors.json.gz")


def istio_tables() -> list[tuple[str, Literal[4, 6]]]:
    """Every table that Istio's own rule builder installs, with its family."""
    data = load("istio-init-tables.json.gz")
    families: dict[int, Literal[4, 6]] = {}
    for scenarios in data["results"].values():
        for scenario, index in scenarios.items():
            families[index] = 6 if scenario.endswith("V6") else 4
    return [(data["tables"][index], family) for index, family in sorted(families.items())]


def experiment_rulesets() -> Iterator[tuple[str, str, Literal[4, 6]]]:
    """Id, text and family of every ruleset that an experiment loaded; three give commands instead."""
    for experiment in vectors()["experiments"] + vectors()["differential_corpus"]:
        held = experiment.get("ruleset") or []
        for text in [held] if isinstance(held, str) else held:
            if text.startswith("*"):
                yield experiment["id"], text, experiment.get("family", 4)


def in_a_table(rule: str, table: str = "nat") -> str:
    """A text with that rule alone in it, and every chain that it may name."""
    chains = [f":{name} ACCEPT [0:0]" for name in BUILTIN] + [f":{name} - [0:0]" for name in CHAINS]
    return "\n".join((f"*{table}", *chains, rule, "COMMIT", ""))


def observed(pattern: str) -> list[Path]:
    """Files of real pods, empty ones too."""
    return sorted(DATA.glob(f"observed-*/{pattern}"))
