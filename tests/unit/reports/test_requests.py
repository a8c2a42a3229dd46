"""Real requests in the summary: what was not decided is not told as "not captured"."""

import pytest

from pytest_istio_sidecar.reports.requests import describe_requests


def record(port: int, captured: str | None, *, decided: bool) -> dict[str, object]:
    return {"request": "inbound", "port": port, "uid": 0, "gid": 0, "captured": captured, "decided": decided}


@pytest.mark.parametrize(
    ("captured", "decided", "words"),
    [
        ("inbound", True, "captured by Envoy's inbound listener"),
        (None, True, "not captured"),
        (None, False, "nothing shows whether Envoy saw them"),
    ],
)
def test_a_request_is_told_by_what_is_known_of_it(captured, decided, words):
    assert describe_requests([record(80, captured, decided=decided)]) == [
        ("real requests", f"inbound to 80: {words}")
    ]


def test_what_is_not_known_stands_last():
    told = describe_requests(
        [record(1, None, decided=False), record(2, None, decided=True), record(3, "inbound", decided=True)]
    )
    assert [text.partition(":")[0] for _, text in told] == ["inbound to 3", "inbound to 2", "inbound to 1"]
