"""Requests in a cluster: what decides is the kernel's entry for the request's own connection."""

from __future__ import annotations

import ipaddress
import json

import pytest

from pytest_istio_sidecar import NotIntercepted, RedirectError, assert_intercepted, assert_not_intercepted
from pytest_istio_sidecar.environments.cluster.traffic import ClusterTraffic
from pytest_istio_sidecar.errors import EnvironmentProblem, Undecided
from pytest_istio_sidecar.machine.command import CommandResult

POD, CLIENT = ipaddress.ip_address("10.244.0.7"), ipaddress.ip_address("10.244.0.6")
HTTPBIN = (
    'HTTP/1.1 200 OK\r\nserver: istio-envoy\r\n\r\n{"args":{},"headers":{},"origin":"10.244.0.6","url":"x"}'
)


def entry(source: str, sport: int, destination: str, dport: int, answers: tuple[str, int]) -> str:
    """A line of nf_conntrack, as Linux 6.18 prints it."""
    return (
        f"ipv4     2 tcp      6 119 TIME_WAIT src={source} dst={destination} sport={sport} dport={dport} "
        f"src={answers[0]} dst={source} sport={answers[1]} dport={sport} [ASSURED] mark=0 zone=0 use=2\n"
    )


def result(stdout: str = "", *, status: int | None = 0, stderr: str = "") -> CommandResult:
    return CommandResult(argv=("x",), exit_status=status, stdout=stdout, stderr=stderr, seconds=0.1)


SOCKETS = "  sl  local_address rem_address st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode\n"


def listening(address: str, inode: int) -> str:
    """A line of /proc/net/tcp, of a socket of user 1337 on port 15006."""
    end = ipaddress.ip_address(address).packed[::-1].hex().upper()
    queues = "00000000:00000000 00:00000000 00000000"
    return (
        f"   0: {end}:3A9E 00000000:0000 0A {queues}  1337        0 {inode} 1 0000000000000000 100 0 0 10 0\n"
    )


class Pod:
    """A double of a pod's root: what curl, the connection table and iptables-save answer."""

    def __init__(self, table: str = "", *, curl: CommandResult | None = None) -> None:
        self.table = table
        self.curl = curl
        self.asked: list[list[str]] = []
        self.sockets = self.holders = ""

    def run(self, argv, *, timeout: float) -> CommandResult:
        assert timeout > 0
        self.asked.append(list(argv))
        if argv[-1] == "/proc/net/tcp" and self.sockets:
            return result(SOCKETS + self.sockets)
        if argv[-1].startswith("/proc/net/") and argv[-1] != "/proc/net/nf_conntrack" and self.sockets:
            return result(SOCKETS)
        if argv[0] == "sh":
            return result(self.holders)
        if argv[0] == "cat":
            return result(self.table) if self.table is not None else result(status=1, stderr="No such file")
        return self.curl if argv[0] == "setpriv" and self.curl else result()


def traffic(pod: Pod, *, received: str = HTTPBIN, local: int | None = 40000, refused: bool = False):
    told = {
        "local": [str(CLIENT), local] if local else None,
        "received": received,
        "error": "[Errno 111] Connection refused" if refused else "",
        "refused": refused,
    }
    return ClusterTraffic(
        runner=pod,
        client=lambda argv, timeout: result(json.dumps(told)),
        pod="demo/httpbin",
        address=POD,
        client_address=CLIENT,
        application_port=80,
        listeners={15001: "outbound", 15006: "inbound"},
    )


def test_a_request_whose_answers_come_from_15006_was_captured_inbound() -> None:
    pod = Pod(entry(str(CLIENT), 40000, str(POD), 80, (str(POD), 15006)))
    observation = traffic(pod).send("inbound", None, 1000, 1000)
    assert observation.captured_by == "inbound"
    assert observation.answered_by == "httpbin"
    assert_intercepted(observation, direction="inbound")


ENVOYS = listening("0.0.0.0", 1)
HELD = "/proc/7 envoy\nsocket:[1\n"


@pytest.mark.parametrize(
    ("sockets", "holders", "captured"),
    [
        (ENVOYS, HELD, "inbound"),
        (ENVOYS + listening("0.0.0.0", 2), f"{HELD}socket:[2\n", "inbound"),
        (ENVOYS + listening("0.0.0.0", 2), "", "inbound"),
        (ENVOYS + listening("0.0.0.0", 2), f"{HELD}/proc/9 nc\nsocket:[2\n", None),
        (ENVOYS + listening("10.244.0.7", 2), f"{HELD}/proc/9 nc\nsocket:[2\n", None),
        (ENVOYS + listening("10.244.0.7", 2), "", None),
        (ENVOYS + listening("10.244.0.9", 2), "", "inbound"),
    ],
    ids=[
        "alone",
        "workers",
        "twins of nobody seen",
        "a twin",
        "nearer",
        "nearer, of nobody seen",
        "elsewhere",
    ],
)
def test_what_15006_answers_was_captured_where_no_other_socket_may_have_taken_it(
    sockets, holders, captured
) -> None:
    pod = Pod(entry(str(CLIENT), 40000, str(POD), 80, (str(POD), 15006)))
    pod.sockets, pod.holders = sockets, holders
    assert traffic(pod).send("inbound", None, 1000, 1000).captured_by == captured


def test_a_request_whose_answers_come_from_the_application_was_not() -> None:
    pod = Pod(entry(str(CLIENT), 40000, str(POD), 80, (str(POD), 80)))
    observation = traffic(pod).send("inbound", None, 1000, 1000)
    assert_not_intercepted(observation)
    with pytest.raises(NotIntercepted, match="answered by httpbin without Envoy"):
        assert_intercepted(observation)


def test_another_connection_to_the_same_port_proves_nothing() -> None:
    pod = Pod(entry(str(CLIENT), 40001, str(POD), 80, (str(POD), 15006)))
    observation = traffic(pod).send("inbound", None, 1000, 1000)
    assert not observation.decided
    with pytest.raises(Undecided):
        assert_intercepted(observation)


def test_a_connection_that_was_sent_to_a_port_nobody_captures_on_is_neither() -> None:
    pod = Pod(entry(str(CLIENT), 40000, str(POD), 80, (str(POD), 15099)))
    observation = traffic(pod).send("inbound", None, 1000, 1000)
    with pytest.raises(RedirectError, match=r"was redirected to 10\.244\.0\.7:15099"):
        assert_not_intercepted(observation)


def test_a_refused_connection_is_answered_by_the_kernel_and_not_by_envoy() -> None:
    observation = traffic(Pod(), received="", local=None, refused=True).send("inbound", 22, 1000, 1000)
    assert (observation.answered_by, observation.answered_port) == ("kernel", 22)
    assert_not_intercepted(observation)


def test_a_request_of_the_pod_is_sent_as_the_user_that_was_asked_for() -> None:
    body = '{"headers":{},"origin":"x"}'
    curl = result(f"HTTP/1.1 200 OK\r\n\r\n{body}\n10.244.0.7 50000")
    pod = Pod(entry(str(POD), 50000, str(CLIENT), 80, ("127.0.0.1", 15001)), curl=curl)
    observation = traffic(pod).send("outbound", None, 1000, 1337)
    sent = next(argv for argv in pod.asked if argv[0] == "setpriv")
    assert sent[1:4] == ["--reuid=1000", "--regid=1337", "--clear-groups"]
    assert sent[-1] == f"http://{CLIENT}:80/anything"
    assert observation.captured_by == "outbound"


def test_a_curl_that_cannot_be_run_is_an_error_and_no_verdict() -> None:
    missing = result(status=127, stderr="setpriv: failed to execute curl: No such file or directory")
    with pytest.raises(EnvironmentProblem, match="no request could be sent from demo/httpbin"):
        traffic(Pod(curl=missing)).send("outbound", None, 1000, 1000)


def test_a_kernel_that_shows_no_connections_is_an_error_and_no_verdict() -> None:
    pod = Pod()
    pod.table = None
    with pytest.raises(EnvironmentProblem, match="CONFIG_NF_CONNTRACK_PROCFS"):
        traffic(pod).send("inbound", None, 1000, 1000)
