"""Which checks are made of a pod's rules, and with what: by the shipped suite, or by `judge`.

A plugin of pytest, and a program. Knows where checks are; each `check_` function is replaced before anybody
imports it. Does not know which should be made. Invariant: what is asked of a release's own rules, to see what
they hold to, is not noted.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
from importlib import import_module
from pathlib import Path

from pytest_istio_sidecar import checks
from pytest_istio_sidecar.netfilter.model import Table

calls: set[str] = set()


def _note(function):
    signature = inspect.signature(function)

    @functools.wraps(function)
    def noting(*arguments, **named):
        given = signature.bind(*arguments, **named)
        given.apply_defaults()
        values = dict(given.arguments)
        rules = values.pop(next(iter(values)))
        if not _of_a_release(rules):
            values = {name: sorted(v) if isinstance(v, set) else v for name, v in values.items()}
            about = f"table {rules.name}" if isinstance(rules, Table) else "all rules"
            calls.add(f"{function.__name__} of {about}: {values}")
        return function(*arguments, **named)

    return noting


def _of_a_release(rules) -> bool:
    held = rules.ruleset if isinstance(rules, Table) else next(iter(getattr(rules, "rulesets", [rules])))
    return str(getattr(held, "source", "")).startswith("Istio ")


for _name in (
    "packets",
    "chains",
    "comparison.expectation",
    "bypass.bypasses",
    "sockets.listeners",
    "replicas",
    "bypass.reviewed",
):
    _module = import_module(f"{checks.__name__}.{_name}")
    for _attribute in [name for name in vars(_module) if name.startswith("check_")]:
        _function = getattr(_module, _attribute)
        if _function.__module__ == _module.__name__:
            setattr(_module, _attribute, _note(_function))


def pytest_sessionfinish() -> None:
    Path(os.environ["RECORDED_CHECKS"]).write_text(json.dumps(sorted(calls)))


def main(path: str, version: str, *pairs: str) -> None:
    """Judge a listing, and note the same."""
    from pytest_istio_sidecar.environments.file import read_given
    from pytest_istio_sidecar.istio.options import IstioOptions
    from pytest_istio_sidecar.netfilter.packet import Host
    from pytest_istio_sidecar.selftest.judge import judge

    list(judge(read_given([path]).rules, version, options=IstioOptions.from_pairs(pairs), host=Host()))
    pytest_sessionfinish()


if __name__ == "__main__":
    main(*sys.argv[1:])
