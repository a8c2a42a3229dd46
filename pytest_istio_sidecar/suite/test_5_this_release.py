"""All packets at once: they fare as this release means with the pod's options; what those open is known."""

from datetime import UTC, datetime

import pytest

from pytest_istio_sidecar import (
    Severity,
    assert_matches_istio,
    assert_reviewed_bypasses,
    check_matches_istio,
    check_reviewed_bypasses,
)


def test_every_packet_fares_as_with_the_rules_of_this_release(
    pod_rules, istio_version, istio_options, sidecar_pod, notice
):
    expectation = {"options": istio_options, "host": sidecar_pod.host}
    for finding in check_matches_istio(pod_rules, istio_version, **expectation):
        if finding.severity is Severity.NOTICE:
            notice(finding.summary)
    assert_matches_istio(pod_rules, istio_version, **expectation)


def test_what_the_options_of_the_pod_open_is_reviewed(
    istio_version, istio_options, reviewed_bypasses, sidecar_pod, notice
):
    today = datetime.now(tz=UTC).date()
    opened = check_reviewed_bypasses(istio_version, istio_options, None, today=today, host=sidecar_pod.host)
    for finding in opened:
        notice(finding.summary)
    if opened and reviewed_bypasses is None:
        pytest.skip("this project keeps no list of reviewed bypasses (--istio-reviewed-bypasses)")
    assert_reviewed_bypasses(
        istio_version, istio_options, reviewed_bypasses or (), today=today, host=sidecar_pod.host
    )
