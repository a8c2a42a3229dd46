"""Pods whose routing or sockets somebody changed: each attack is shown by a real request, then told.

A request that was answered without a line in Envoy's log got by; one that nobody answered was led astray.
"""

import sys
from pathlib import Path

import pytest

from pytest_istio_sidecar import check_capture_sockets, check_matches_istio
from pytest_istio_sidecar.environments.embedded.environment import EmbeddedEnvironment
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.reports.message import render_findings

SUITE = ("--pyargs", "pytest_istio_sidecar.suite", "--istio-environment=embedded")
CLIENT, CLIENT_6 = "192.0.2.20", "2001:db8::20"
OUT = f"ip route add default via {CLIENT} dev eth0 table 90\n"
IN_LO = "ip route add default dev lo table 100\n"
MARK = "iptables-legacy -t mangle -A OUTPUT -p tcp --dport 8080"
OUT_BY_7 = f"ip rule add pref 90 fwmark 7 lookup 90\n{OUT}"
SET_7 = f"{MARK} -j MARK --set-mark 7\n"
BY_MARK = f"{OUT_BY_7}{IN_LO}{SET_7}"
TO_CLIENT = f"ip rule add pref 100 to {CLIENT} lookup 100\n"

IMPOSTOR = """
cat > /run/impostor.py <<'EOF'
import json, os, socket, sys
where, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in where else socket.AF_INET
server = socket.socket(family)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
if family == socket.AF_INET6:
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
server.bind((where, port))
server.listen(64)
open("/run/bound", "w").close()
while True:
    connection = server.accept()[0]
    connection.recv(65536)
    body = json.dumps({"answered_by": "impostor", "port": port})
    connection.sendall(f"HTTP/1.1 200 OK\\r\\ncontent-length: {len(body)}\\r\\n\\r\\n{body}".encode())
    connection.close()
EOF
"""
"""A process of the proxy's own user that listens where it is told."""


def impostor(address: str, port: int) -> str:
    # Python may stand where only root can read.
    run = "setpriv --reuid=1337 --regid=1337 --clear-groups --inh-caps=+dac_read_search "
    run += f"--ambient-caps=+dac_read_search {sys.executable} -I -S /run/impostor.py"
    wait = "for n in $(seq 200); do test -e /run/bound && break; sleep 0.02; done"
    return f"{IMPOSTOR}{run} {address} {port} &\n{wait}\n"


BYPASSES = {
    "a mark and a route by lo": (
        f"ip rule add pref 100 to {CLIENT} lookup 100\n{BY_MARK}",
        ["rule 90: from all fwmark 0x7 lookup 90", "route default dev lo table 100"],
    ),
    "a user's packets by lo": (
        f"ip rule add pref 100 uidrange 1000-1000 lookup 100\n{BY_MARK}",
        ["100: from all uidrange 1000-1000 lookup 100"],
    ),
    "a user's packets, asked first": (
        f"ip rule add pref 80 uidrange 1000-1000 lookup 100\n{BY_MARK}",
        ["80: from all uidrange 1000-1000 lookup 100"],
    ),
    "a mark by way of the connection": (
        f"{TO_CLIENT}{OUT_BY_7}{IN_LO}{MARK} -j CONNMARK --set-mark 7\n{MARK} -j CONNMARK --restore-mark\n",
        ["90: from all fwmark 0x7 lookup 90", "CONNMARK"],
    ),
    "some bits of a mark": (
        f"{TO_CLIENT}ip rule add pref 90 fwmark 0x10/0xf0 lookup 90\n{OUT}{IN_LO}{MARK} -j MARK --or 0x10\n",
        ["90: from all fwmark 0x10/0xf0 lookup 90"],
    ),
    "a route of the main table": (
        f"ip route add {CLIENT} dev lo\n{OUT_BY_7}{SET_7}",
        [f"ip route: {CLIENT} dev lo"],
    ),
    "a rule turned round": (
        f"ip rule add pref 100 not to 127.0.0.0/8 iif lo lookup 100\n{BY_MARK}",
        ["100: not from all to 127.0.0.0/8 iif lo lookup 100"],
    ),
    "a rule for a port": (
        f"ip rule add pref 100 ipproto tcp dport 8080 lookup 100\n{BY_MARK}",
        ["100: from all ipproto tcp dport 8080 lookup 100"],
    ),
    "by way of goto": (
        f"ip rule add pref 100 goto 300\nip rule add pref 300 to {CLIENT} lookup 100\n{BY_MARK}",
        ["300: from all to 192.0.2.20 lookup 100"],
    ),
    "the mark is taken away": (
        f"ip rule add pref 100 to {CLIENT} fwmark 0/7 lookup 100\n{IN_LO}{MARK} -j MARK --set-mark 1\n",
        ["100: from all to 192.0.2.20 fwmark 0/0x7 lookup 100"],
    ),
}


@pytest.fixture
def broken(start_pod, tmp_path):
    """A function: a pod that a script has changed."""

    def start(script: str, **options: object) -> EmbeddedEnvironment:
        file = tmp_path / "setup.sh"
        file.write_text(f"set -e\n{script}")
        return start_pod(setup=file, **options)

    return start


def told_of_rules(pod: EmbeddedEnvironment, **options: object) -> str:
    return render_findings(check_matches_istio(pod.read_rules(), "1.8.3", host=pod.pod().host, **options))


def told_of_sockets(pod: EmbeddedEnvironment, options: IstioOptions | None = None) -> str:
    found = check_capture_sockets(pod.read_sockets(), pod.read_listeners(), options=options)
    return render_findings(found) if found else ""


@pytest.mark.parametrize(("script", "named"), BYPASSES.values(), ids=BYPASSES)
def test_a_way_past_envoy_by_routes_is_told_with_its_rule(broken, script, named):
    pod = broken(script)
    seen = pod.send_request("outbound")
    assert (seen.decided, seen.captured_by, seen.answered_by) == (True, None, "echo")
    said = " ".join(told_of_rules(pod).split())
    assert "expected redirected to :15001, here unchanged" in said
    assert all(text.removeprefix("rule ").removeprefix("route ") in said for text in named), said


def test_a_way_past_envoy_by_routes_of_ipv6_is_told_with_its_rule(broken):
    options = IstioOptions(enable_ipv6=True)
    pod = broken(
        f"ip -6 rule add pref 100 to {CLIENT_6} lookup 100\n"
        "ip -6 route add default dev lo src 2001:db8::10 table 100\n"
        "ip -6 rule add pref 90 fwmark 7 lookup 90\n"
        f"ip -6 route add default via {CLIENT_6} dev eth0 table 90\n"
        "ip6tables-legacy -t mangle -A OUTPUT -p tcp --dport 8080 -j MARK --set-mark 7\n",
        options=options,
    )
    seen = pod.send_request("outbound", family=6)
    assert (seen.decided, seen.captured_by, seen.answered_by) == (True, None, "echo")
    said = told_of_rules(pod, options=options)
    assert "ip -6 rule: 100: from all to 2001:db8::20 lookup 100" in said


def test_packets_that_routes_alone_lead_astray_are_told_though_the_rules_are_istios(broken):
    pod = broken(f"ip rule add pref 100 uidrange 1000-1000 lookup 100\n{IN_LO}")
    assert pod.send_request("outbound").captured_by is None
    said = told_of_rules(pod)
    assert said.startswith("rules and routes of the namespace lead packets elsewhere than Istio 1.8.3 means")
    assert "ip rule: 100: from all uidrange 1000-1000 lookup 100" in said


def test_an_own_address_that_the_local_table_lost_is_told(broken):
    pod = broken("ip route del local 192.0.2.10 table local\n")
    seen = pod.send_request("inbound")
    assert seen.captured_by is None
    assert seen.answered_by is None
    said = told_of_rules(pod)
    assert said.startswith("rules and routes of the namespace lead packets elsewhere")


def test_a_dnat_to_127_0_0_1_reaches_the_application_where_route_localnet_is_on(broken):
    dnat = "iptables-legacy -t nat -I PREROUTING -p tcp --dport 80 -j DNAT --to-destination 127.0.0.1:80\n"
    pod = broken(f"echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet\n{dnat}")
    seen = pod.send_request("inbound")
    assert (seen.captured_by, seen.answered_by) == (None, "httpbin")
    assert "here translated to 127.0.0.1" in " ".join(told_of_rules(pod).split())
    off = broken(dnat)
    assert off.send_request("inbound").answered_by is None
    assert "here dropped" in " ".join(told_of_rules(off).split())


SOCKETS = {
    "at the pod's address": ("192.0.2.10", 15006, "inbound", 4),
    "at the pod's second address": ("192.0.2.11", 15006, "", 4),
    "beside Envoy's own": ("0.0.0.0", 15006, "inbound", 4),
    "on 127.0.0.1, where what leaves is sent": ("127.0.0.1", 15001, "outbound", 4),
    "at the pod's IPv6 address": ("2001:db8::10", 15006, "inbound", 6),
    "beside Envoy's own of IPv6": ("::", 15006, "inbound", 6),
    "on ::1, where what leaves is sent": ("::1", 15001, "outbound", 6),
}


@pytest.mark.parametrize(("address", "port", "kind", "family"), SOCKETS.values(), ids=SOCKETS)
def test_an_impostor_of_the_proxys_user_is_told_with_its_socket(broken, address, port, kind, family):
    options = IstioOptions(enable_ipv6=True) if family == 6 else IstioOptions()
    pod = broken(impostor(address, port), options=options)
    answers = {pod.send_request(kind, family=family).answered_by for _ in range(12)} if kind else {"impostor"}
    assert "impostor" in answers
    said = told_of_sockets(pod, options)
    assert said.startswith(f"a socket on Envoy's port {port} is not Envoy's: ")
    assert f"{address}" in said.partition("\n")[0]
    assert "(process " in said


HARMLESS = {
    "a rule for a mark that nobody sets, by the usual way": f"ip rule add pref 90 fwmark 99 lookup 90\n{OUT}",
    "a table that no rule asks": IN_LO,
    "a rule whose table is empty": "ip rule add pref 100 uidrange 1000-1000 lookup 100\n",
    "a mark that nobody routes by": f"{MARK} -j MARK --set-mark 0x99\n",
    "a rule for another source": f"ip rule add pref 100 from 203.0.113.0/24 lookup 100\n{IN_LO}",
    "the usual way by a rule": f"ip rule add pref 100 to {CLIENT} lookup 90\n{OUT}",
    "a mark routed by the usual way": f"{OUT_BY_7}{SET_7}",
    "main without its default route first": "ip rule add pref 50 lookup main suppress_prefixlength 0\n",
    "a listener on another port": impostor("0.0.0.0", 15016),
    "route_localnet": "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet\n",
}


@pytest.mark.parametrize("script", HARMLESS.values(), ids=HARMLESS)
def test_what_does_no_harm_is_no_finding(broken, script):
    pod = broken(script)
    assert pod.send_request("outbound").captured_by == "outbound"
    assert pod.send_request("inbound").captured_by == "inbound"
    found = check_matches_istio(pod.read_rules(), "1.8.3", host=pod.pod().host)
    assert [finding for finding in found if finding.severity == "violation"] == []
    assert told_of_sockets(pod) == ""


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (BYPASSES["a mark and a route by lo"][0], "90: from all fwmark 0x7 lookup 90"),
        (impostor("192.0.2.10", 15006), "a socket on Envoy's port 15006 is not Envoy's: 192.0.2.10:15006"),
    ],
    ids=["routes", "an impostor"],
)
def test_the_shipped_suite_fails_and_names_it(pytester, script, told):
    Path("break.sh").write_text(script)
    result = pytester.runpytest_subprocess(*SUITE, "--istio-embedded-setup=break.sh")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert told in " ".join(result.stdout.str().split())
