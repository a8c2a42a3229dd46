"""Prove, on a real pod, that traffic goes through the Istio sidecar.

The public names, and nothing else. Each is imported when it is first used
(PEP 562), so that `import pytest_istio_sidecar` costs a project nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_istio_sidecar.assertions import (
        assert_bypasses as assert_bypasses,
    )
    from pytest_istio_sidecar.assertions import (
        assert_inbound_exclusions as assert_inbound_exclusions,
    )
    from pytest_istio_sidecar.assertions import (
        assert_intercepted as assert_intercepted,
    )
    from pytest_istio_sidecar.assertions import (
        assert_jump as assert_jump,
    )
    from pytest_istio_sidecar.assertions import (
        assert_listener as assert_listener,
    )
    from pytest_istio_sidecar.assertions import (
        assert_matches_istio as assert_matches_istio,
    )
    from pytest_istio_sidecar.assertions import (
        assert_not_intercepted as assert_not_intercepted,
    )
    from pytest_istio_sidecar.assertions import (
        assert_only_bypasses as assert_only_bypasses,
    )
    from pytest_istio_sidecar.assertions import (
        assert_policy_routes as assert_policy_routes,
    )
    from pytest_istio_sidecar.assertions import (
        assert_redirect_target as assert_redirect_target,
    )
    from pytest_istio_sidecar.assertions import (
        assert_redirected as assert_redirected,
    )
    from pytest_istio_sidecar.assertions import (
        assert_reviewed_bypasses as assert_reviewed_bypasses,
    )
    from pytest_istio_sidecar.assertions import (
        assert_rules_reach_listeners as assert_rules_reach_listeners,
    )
    from pytest_istio_sidecar.assertions import (
        assert_same_rules as assert_same_rules,
    )
    from pytest_istio_sidecar.checks.bypass.bypass import Bypass as Bypass
    from pytest_istio_sidecar.checks.bypass.bypasses import (
        BypassReport as BypassReport,
    )
    from pytest_istio_sidecar.checks.bypass.bypasses import (
        bypasses as bypasses,
    )
    from pytest_istio_sidecar.checks.bypass.bypasses import (
        check_only_bypasses as check_only_bypasses,
    )
    from pytest_istio_sidecar.checks.bypass.found_bypass import FoundBypass as FoundBypass
    from pytest_istio_sidecar.checks.bypass.reviewed import ReviewedBypass as ReviewedBypass
    from pytest_istio_sidecar.checks.bypass.reviewed import check_reviewed_bypasses as check_reviewed_bypasses
    from pytest_istio_sidecar.checks.bypass.reviewed import parse_reviewed_bypasses as parse_reviewed_bypasses
    from pytest_istio_sidecar.checks.chains import (
        check_dead_rules as check_dead_rules,
    )
    from pytest_istio_sidecar.checks.chains import (
        check_inbound_exclusions as check_inbound_exclusions,
    )
    from pytest_istio_sidecar.checks.chains import (
        check_jump as check_jump,
    )
    from pytest_istio_sidecar.checks.chains import (
        check_redirect_target as check_redirect_target,
    )
    from pytest_istio_sidecar.checks.comparison.comparison import Comparison as Comparison
    from pytest_istio_sidecar.checks.comparison.comparison import compare as compare
    from pytest_istio_sidecar.checks.comparison.expectation import check_matches_istio as check_matches_istio
    from pytest_istio_sidecar.checks.finding import Finding as Finding
    from pytest_istio_sidecar.checks.finding import Severity as Severity
    from pytest_istio_sidecar.checks.listeners import check_listener as check_listener
    from pytest_istio_sidecar.checks.listeners import (
        check_rules_reach_listeners as check_rules_reach_listeners,
    )
    from pytest_istio_sidecar.checks.packets import (
        check_bypasses as check_bypasses,
    )
    from pytest_istio_sidecar.checks.packets import (
        check_redirected as check_redirected,
    )
    from pytest_istio_sidecar.checks.policy_routes import check_policy_routes as check_policy_routes
    from pytest_istio_sidecar.checks.replicas import check_replicas as check_replicas
    from pytest_istio_sidecar.checks.traffic import (
        check_intercepted as check_intercepted,
    )
    from pytest_istio_sidecar.checks.traffic import (
        check_not_intercepted as check_not_intercepted,
    )
    from pytest_istio_sidecar.environments.base import SidecarPod as SidecarPod
    from pytest_istio_sidecar.errors import (
        BypassError as BypassError,
    )
    from pytest_istio_sidecar.errors import (
        EnvironmentProblem as EnvironmentProblem,
    )
    from pytest_istio_sidecar.errors import (
        IstioSidecarError as IstioSidecarError,
    )
    from pytest_istio_sidecar.errors import (
        ListenerMismatch as ListenerMismatch,
    )
    from pytest_istio_sidecar.errors import (
        NotIntercepted as NotIntercepted,
    )
    from pytest_istio_sidecar.errors import (
        ParseError as ParseError,
    )
    from pytest_istio_sidecar.errors import (
        RedirectError as RedirectError,
    )
    from pytest_istio_sidecar.errors import (
        RuleSetMismatch as RuleSetMismatch,
    )
    from pytest_istio_sidecar.errors import (
        Undecided as Undecided,
    )
    from pytest_istio_sidecar.errors import (
        UsageProblem as UsageProblem,
    )
    from pytest_istio_sidecar.errors import (
        VerdictAgainst as VerdictAgainst,
    )
    from pytest_istio_sidecar.istio.listeners import Listener as Listener
    from pytest_istio_sidecar.istio.observation import Observation as Observation
    from pytest_istio_sidecar.istio.options import IstioOptions as IstioOptions
    from pytest_istio_sidecar.istio.rules import expected_ruleset as expected_ruleset
    from pytest_istio_sidecar.netfilter.model import PodRules as PodRules
    from pytest_istio_sidecar.netfilter.model import Ruleset as Ruleset
    from pytest_istio_sidecar.netfilter.model import Table as Table
    from pytest_istio_sidecar.netfilter.packet import (
        Endpoint as Endpoint,
    )
    from pytest_istio_sidecar.netfilter.packet import (
        Fate as Fate,
    )
    from pytest_istio_sidecar.netfilter.packet import (
        Host as Host,
    )
    from pytest_istio_sidecar.netfilter.packet import (
        Packet as Packet,
    )
    from pytest_istio_sidecar.netfilter.packet import (
        inbound as inbound,
    )
    from pytest_istio_sidecar.netfilter.packet import (
        outbound as outbound,
    )
    from pytest_istio_sidecar.netfilter.sockets import Socket as Socket
    from pytest_istio_sidecar.netfilter.text.complete import complete as complete
    from pytest_istio_sidecar.netfilter.text.parse import parse_iptables as parse_iptables
    from pytest_istio_sidecar.netfilter.text.parse_list import parse_iptables_list as parse_iptables_list
    from pytest_istio_sidecar.netfilter.text.parse_save import parse_iptables_save as parse_iptables_save
    from pytest_istio_sidecar.netfilter.text.render import render_save as render_save
    from pytest_istio_sidecar.netfilter.trace.trace import Trace as Trace
    from pytest_istio_sidecar.netfilter.trace.trace import trace as trace

_HOMES = {
    "assertions": (
        "assert_bypasses",
        "assert_inbound_exclusions",
        "assert_intercepted",
        "assert_jump",
        "assert_listener",
        "assert_matches_istio",
        "assert_reviewed_bypasses",
        "assert_rules_reach_listeners",
        "assert_same_rules",
        "assert_not_intercepted",
        "assert_only_bypasses",
        "assert_policy_routes",
        "assert_redirect_target",
        "assert_redirected",
    ),
    "checks.bypass.bypass": ("Bypass",),
    "checks.bypass.bypasses": ("BypassReport", "bypasses", "check_only_bypasses"),
    "checks.comparison.comparison": ("Comparison", "compare"),
    "checks.comparison.expectation": ("check_matches_istio",),
    "checks.bypass.found_bypass": ("FoundBypass",),
    "istio.observation": ("Observation",),
    "environments.base": ("SidecarPod",),
    "istio.listeners": ("Listener",),
    "checks.finding": ("Finding", "Severity"),
    "checks.listeners": ("check_listener", "check_rules_reach_listeners"),
    "checks.policy_routes": ("check_policy_routes",),
    "checks.replicas": ("check_replicas",),
    "checks.bypass.reviewed": ("ReviewedBypass", "check_reviewed_bypasses", "parse_reviewed_bypasses"),
    "checks.packets": ("check_bypasses", "check_redirected"),
    "checks.chains": (
        "check_dead_rules",
        "check_inbound_exclusions",
        "check_jump",
        "check_redirect_target",
    ),
    "checks.traffic": ("check_intercepted", "check_not_intercepted"),
    "errors": (
        "BypassError",
        "EnvironmentProblem",
        "IstioSidecarError",
        "ListenerMismatch",
        "NotIntercepted",
        "ParseError",
        "RedirectError",
        "RuleSetMismatch",
        "Undecided",
        "UsageProblem",
        "VerdictAgainst",
    ),
    "istio.options": ("IstioOptions",),
    "istio.rules": ("expected_ruleset",),
    "netfilter.text.complete": ("complete",),
    "netfilter.model": ("PodRules", "Ruleset", "Table"),
    "netfilter.packet": ("Endpoint", "Fate", "Host", "Packet", "inbound", "outbound"),
    "netfilter.text.parse": ("parse_iptables",),
    "netfilter.text.parse_list": ("parse_iptables_list",),
    "netfilter.text.parse_save": ("parse_iptables_save",),
    "netfilter.text.render": ("render_save",),
    "netfilter.sockets": ("Socket",),
    "netfilter.trace.trace": ("Trace", "trace"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
