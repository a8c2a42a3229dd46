"""Whose sockets are on Envoy's ports: workers are no impostors, and what was not seen is no verdict."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from pytest_istio_sidecar import (
    Listener,
    ListenerMismatch,
    Socket,
    assert_capture_sockets,
    check_capture_sockets,
)
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.netfilter.namespace.sockets import Process, parse_sockets

ANY = ip_address("0.0.0.0")
LISTENERS = tuple(
    Listener(address=ANY, port=port, direction=direction, original_destination=True)
    for port, direction in ((15001, "outbound"), (15006, "inbound"))
)
ENVOY, OTHER = Process(17, "envoy"), Process(99, "python3")


def socket(port=15006, address="0.0.0.0", uid=1337, processes=(ENVOY,)):
    return Socket(protocol="tcp", address=ip_address(address), port=port, uid=uid, processes=processes)


def told(*sockets, **options):
    found = check_capture_sockets(sockets, LISTENERS, options=IstioOptions(**options))
    return [(str(finding.severity), finding.summary) for finding in found]


def test_two_workers_of_envoy_share_its_addresses():
    assert told(socket(), socket(), socket(15001), socket(15001)) == []


def test_two_sockets_whose_processes_were_not_seen_are_a_notice_that_names_their_number():
    ((severity, summary),) = told(socket(processes=None), socket(processes=None))
    assert severity == "notice"
    assert summary == "2 sockets share 0.0.0.0:15006: that all are of Envoy's workers was not seen"


@pytest.mark.parametrize(
    "impostor",
    [
        socket(uid=1000, processes=None),
        socket(processes=(OTHER,)),
        socket(processes=()),
        socket(address="192.0.2.10", processes=(OTHER,)),
        socket(address="192.0.2.10", processes=None),
        socket(15001, "127.0.0.1", processes=(OTHER,)),
        socket(processes=(Process(98, "envoy"),)),
    ],
    ids=["user", "process", "unseen process", "address", "address alone", "outbound", "name"],
)
def test_a_socket_of_somebody_else_is_a_violation(impostor):
    said = [severity for severity, _ in told(socket(), socket(15001), impostor)]
    assert said.count("violation") == 1


def test_the_message_names_address_user_and_process():
    with pytest.raises(ListenerMismatch) as caught:
        assert_capture_sockets(
            (socket(), socket(15001), socket(address="192.0.2.10", processes=(OTHER,))), LISTENERS
        )
    first = str(caught.value).partition("\n")[0]
    assert first == (
        "a socket on Envoy's port 15006 is not Envoy's: 192.0.2.10:15006, user 1337, python3 (process 99)"
    )


def test_other_ports_are_anybodys():
    assert told(socket(), socket(8080, uid=0, processes=(OTHER,))) == []


def test_in_tproxy_mode_envoy_may_be_root():
    assert told(socket(uid=0), inbound_interception_mode="TPROXY") == []


def test_sockets_that_tell_no_more_than_their_address_are_no_finding():
    assert told(replace(socket(), uid=None, processes=None)) == []


def test_a_listing_tells_user_and_inode():
    listing = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   3: 00000000:3A9E 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1337        0 894124 1 "
        "000000005336a626 100 0 0 10 0\n"
    )
    (read,) = parse_sockets("tcp", listing)
    assert (read.uid, read.inode) == (1337, 894124)
