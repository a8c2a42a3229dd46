"""Prove, on a real pod, that traffic goes through the Istio sidecar.

The public names, and nothing else. Each is imported when it is first used
(PEP 562), so that `import pytest_istio_sidecar` costs a project nothing.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_istio_sidecar.assertions import (
        assert_bypasses as assert_bypasses,
        assert_capture_sockets as assert_capture_sockets,
        assert_inbound_exclusions as assert_inbound_exclusions,
        assert_intercepted as assert_intercepted,
        assert_jump as assert_jump,
        assert_listener as assert_listener,
        assert_matches_istio as assert_matches_istio,
        assert_not_intercepted as assert_not_intercepted,
        assert_not_redirected as assert_not_redirected,
        assert_only_bypasses as assert_only_bypasses,
        assert_policy_routes as assert_policy_routes,
        assert_redirect_target as assert_redirect_target,
        assert_redirected as assert_redirected,
        assert_reviewed_bypasses as assert_reviewed_bypasses,
        assert_rules_reach_listeners as assert_rules_reach_listeners,
        assert_same_rules as assert_same_rules,
    )
    from pytest_istio_sidecar.checks.bypass.bypass import Bypass as Bypass
    from pytest_istio_sidecar.checks.bypass.bypasses import (
        BypassReport as BypassReport,
        bypasses as bypasses,
        check_only_bypasses as check_only_bypasses,
    )
    from pytest_istio_sidecar.checks.bypass.found_bypass import FoundBypass as FoundBypass
    from pytest_istio_sidecar.checks.bypass.reviewed import (
        ReviewedBypass as ReviewedBypass,
        check_reviewed_bypasses as check_reviewed_bypasses,
        parse_reviewed_bypasses as parse_reviewed_bypasses,
    )
    from pytest_istio_sidecar.checks.sockets.capture_sockets import (
        check_capture_sockets as check_capture_sockets,
    )
    from pytest_istio_sidecar.checks.chains import (
        check_inbound_exclusions as check_inbound_exclusions,
        check_jump as check_jump,
        check_redirect_target as check_redirect_target,
    )
    from pytest_istio_sidecar.checks.dead_rules import check_dead_rules as check_dead_rules
    from pytest_istio_sidecar.checks.comparison.comparison import Comparison as Comparison, compare as compare
    from pytest_istio_sidecar.checks.comparison.expectation import check_matches_istio as check_matches_istio
    from pytest_istio_sidecar.checks.finding import Finding as Finding, Severity as Severity
    from pytest_istio_sidecar.checks.sockets.listeners import check_listener as check_listener
    from pytest_istio_sidecar.checks.sockets.listeners import (
        check_rules_reach_listeners as check_rules_reach_listeners,
    )
    from pytest_istio_sidecar.checks.packets import (
        check_bypasses as check_bypasses,
        check_not_redirected as check_not_redirected,
        check_redirected as check_redirected,
    )
    from pytest_istio_sidecar.checks.policy_routes import check_policy_routes as check_policy_routes
    from pytest_istio_sidecar.checks.replicas import check_replicas as check_replicas
    from pytest_istio_sidecar.checks.traffic import (
        check_intercepted as check_intercepted,
        check_not_intercepted as check_not_intercepted,
    )
    from pytest_istio_sidecar.environments.base import SidecarPod as SidecarPod
    from pytest_istio_sidecar.errors import (
        BypassError as BypassError,
        EnvironmentProblem as EnvironmentProblem,
        IstioSidecarError as IstioSidecarError,
        ListenerMismatch as ListenerMismatch,
        NotIntercepted as NotIntercepted,
        ParseError as ParseError,
        RedirectError as RedirectError,
        RuleSetMismatch as RuleSetMismatch,
        Undecided as Undecided,
        UsageProblem as UsageProblem,
        VerdictAgainst as VerdictAgainst,
    )
    from pytest_istio_sidecar.istio.listeners import Listener as Listener
    from pytest_istio_sidecar.istio.observation import Observation as Observation
    from pytest_istio_sidecar.istio.options import IstioOptions as IstioOptions
    from pytest_istio_sidecar.istio.rules import expected_ruleset as expected_ruleset
    from pytest_istio_sidecar.netfilter.model import PodRules as PodRules, Ruleset as Ruleset, Table as Table
    from pytest_istio_sidecar.netfilter.packet import (
        Endpoint as Endpoint,
        Fate as Fate,
        Host as Host,
        Packet as Packet,
        inbound as inbound,
        outbound as outbound,
    )
    from pytest_istio_sidecar.netfilter.namespace.sockets import Socket as Socket
    from pytest_istio_sidecar.netfilter.text.complete import complete as complete
    from pytest_istio_sidecar.netfilter.text.forms import parse_rules as parse_rules
    from pytest_istio_sidecar.netfilter.text.nft_render import render_nft as render_nft
    from pytest_istio_sidecar.netfilter.text.nft_text import parse_nftables as parse_nftables
    from pytest_istio_sidecar.netfilter.text.parse import parse_iptables as parse_iptables
    from pytest_istio_sidecar.netfilter.text.parse_list import parse_iptables_list as parse_iptables_list
    from pytest_istio_sidecar.netfilter.text.parse_save import parse_iptables_save as parse_iptables_save
    from pytest_istio_sidecar.netfilter.text.render import render_save as render_save
    from pytest_istio_sidecar.netfilter.trace.trace import Trace as Trace, trace as trace
else:

    @cache
    def _homes() -> dict[str, str]:
        """Every public name, and the module it comes from: what the imports above say to type checkers.

        They are read from this file's text when the first name is used, so that a name stands here once;
        lazy-loader reads a stub in the same manner (Scientific Python's SPEC 1).
        """
        text = __spec__.loader.get_data(__file__).decode()
        return {
            name: home
            for home, names in re.findall(r"^    from (\S+) import (\([^)]*\)|.*)$", text, re.MULTILINE)
            for name in re.findall(r"(\w+) as \1", names)
        }

    def __getattr__(name: str) -> object:
        if name == "__all__":
            return __dir__()
        if name not in _homes():
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_homes()[name]), name)
        return value

    def __dir__() -> list[str]:
        return list(_homes())
