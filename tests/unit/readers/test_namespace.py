"""What beside rules is read of a namespace: what has no answer is named, and nothing is made of it."""

import pytest

from pytest_istio_sidecar.machine.command import CommandResult
from pytest_istio_sidecar.readers.namespace import read_namespace

RULES = "0:\tfrom all lookup local\n32766:\tfrom all lookup main\n"
ROUTES = "default via 192.0.2.20 dev eth0 \n"
CONF = "/proc/sys/net/ipv4/conf"
PARAMETERS = "".join(
    f"{CONF}/{device}/{name}:{value}\n"
    for device, name, value in (
        ("all", "route_localnet", 0),
        ("eth0", "route_localnet", 1),
        ("lo", "route_localnet", 0),
        ("eth0", "forwarding", 1),
        ("lo", "forwarding", 0),
        ("eth0", "rp_filter", 1),
    )
)


class Pod:
    """Answers the four questions of `ip`, and the one of parameters."""

    def __init__(self, *, rules=RULES, routes=ROUTES, parameters=PARAMETERS, ip=True, ipv6=True):
        self.answers = {"rule": rules, "route": routes}
        self.parameters, self.ip, self.ipv6 = parameters, ip, ipv6

    def run(self, argv, *, timeout):
        told, status, error = "", 0, ""
        if argv[0] == "sh":
            told = self.parameters
        elif not self.ip:
            status, error = 127, "ip: not found"
        elif argv[1] == "-6" and not self.ipv6:
            status, error = 2, "RTNETLINK answers: Address family not supported by protocol"
        else:
            told = self.answers[argv[2]] if argv[1] == "-4" else ""
        return CommandResult(argv=tuple(argv), exit_status=status, stdout=told, stderr=error, seconds=0.1)


def test_rules_routes_and_parameters_are_read():
    read = read_namespace(Pod(), timeout=5)
    assert [(policy.family, len(policy.rules), len(policy.routes)) for policy in read.routes] == [
        (4, 2, 1),
        (6, 0, 0),
    ]
    assert (read.localnet, read.forwards) == ({"eth0"}, {"eth0"})
    assert read.notes == ("route_localnet is on for eth0: what comes in there may go to 127.0.0.0/8",)


def test_what_all_have_every_interface_has():
    pod = Pod(parameters=PARAMETERS.replace("all/route_localnet:0", "all/route_localnet:1"))
    assert read_namespace(pod, timeout=5).localnet == {"eth0"}


def test_a_kernel_without_ipv6_has_no_routes_of_it_and_that_is_no_note():
    read = read_namespace(Pod(ipv6=False, parameters=f"{CONF}/lo/forwarding:0\n"), timeout=5)
    assert [policy.family for policy in read.routes] == [4]
    assert read.notes == ()


def test_a_pod_without_ip_is_said_to_be_so():
    read = read_namespace(Pod(ip=False), timeout=5)
    assert read.routes == ()
    assert read.notes[0] == (
        "policy rules and routes of IPv4 were not read (ip: not found): "
        "one that leads past Envoy would not be seen"
    )


def test_parameters_that_cannot_be_read_are_named_and_none_is_assumed():
    read = read_namespace(Pod(parameters=""), timeout=5)
    assert (read.localnet, read.forwards) == (frozenset(), None)
    assert "were not read" in read.notes[0]


def test_an_answer_in_another_form_is_a_note():
    read = read_namespace(Pod(rules="nonsense\n"), timeout=5)
    assert "'nonsense' is no policy rule" in read.notes[0]


LED = {
    "rules": f"{RULES}100: from all fwmark 0x7 lookup 90\n",
    "routes": f"{ROUTES}default dev lo table 90\n",
}
LOOSE = "/proc/sys/net/netfilter/nf_conntrack_tcp_loose"
ADDED = (
    "somebody added to the namespace's routing: ip rule: 100: from all fwmark 0x7 lookup 90; "
    "ip route: default dev lo table 90"
)


@pytest.mark.parametrize(
    ("pod", "said"),
    [
        (Pod(**LED), ADDED),
        (Pod(**LED), "rp_filter is on for eth0: "),
        (Pod(parameters=f"{PARAMETERS}{LOOSE}:0\n"), "nf_conntrack_tcp_loose is 0: "),
    ],
)
def test_what_matters_is_a_note(pod, said):
    assert any(note.startswith(said) for note in read_namespace(pod, timeout=5).notes)
