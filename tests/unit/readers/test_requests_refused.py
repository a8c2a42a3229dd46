"""What is no request is refused before anything is sent, in every environment."""

import pytest

from pytest_istio_sidecar import UsageProblem
from pytest_istio_sidecar.environments.base import PodAccess


class Nowhere(PodAccess):
    """A pod to which nothing may be sent."""

    runner = admin = None

    def traffic(self, kind, family):
        raise AssertionError


Nowhere.__abstractmethods__ = frozenset()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"kind": "sideways"}, "request 'sideways': expected one of inbound, outbound, localhost"),
        ({"port": 99999}, "port 99999 of a request: expected a whole number from 1 to 65535"),
        ({"port": 65536}, "port 65536 of a request: expected a whole number from 1 to 65535"),
        ({"port": 0}, "port 0 of a request: expected a whole number from 1 to 65535"),
        ({"port": -1}, "port -1 of a request: expected a whole number from 1 to 65535"),
        ({"port": "80"}, "port '80' of a request: expected a whole number from 1 to 65535"),
        ({"port": True}, "port True of a request: expected a whole number from 1 to 65535"),
        ({"uid": "root"}, "uid 'root' of a request: expected a whole number from 0 to 4294967294"),
        ({"uid": -1}, "uid -1 of a request: expected a whole number from 0 to 4294967294"),
        ({"gid": 2**32 - 1}, "gid 4294967295 of a request: expected a whole number from 0 to 4294967294"),
        ({"family": 5}, "family 5 of a request: expected 4 or 6"),
        ({"family": "4"}, "family '4' of a request: expected 4 or 6"),
    ],
    ids=str,
)
def test_what_is_no_request_is_refused_with_what_it_may_be(asked, message):
    with pytest.raises(UsageProblem) as refused:
        Nowhere("shop/cart").send_request(**{"kind": "inbound", **asked})
    assert str(refused.value) == message


@pytest.mark.parametrize("asked", [{}, {"port": 65535, "uid": 0, "gid": 0, "family": 6}], ids=str)
def test_what_is_a_request_is_sent(asked):
    with pytest.raises(AssertionError):
        Nowhere("shop/cart").send_request("outbound", **asked)
