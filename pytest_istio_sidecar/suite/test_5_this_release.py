"""All packets at once: they fare as this release means with the pod's options; what those open is known."""

from pytest_istio_sidecar import (
    Severity,
    assert_matches_istio,
    assert_reviewed_bypasses,
    check_matches_istio,
    check_reviewed_bypasses,
)


def test_every_packet_fares_as_with_the_rules_of_this_release(
    pod_rules, istio_version, istio_options, sidecar_pod, allowed, notice
):
    expectation = {"options": istio_options, "host": sidecar_pod.host, "allowed": allowed}
    for finding in check_matches_istio(pod_rules, istio_version, **expectation):
        if finding.severity is Severity.NOTICE:
            notice(finding.summary)
    assert_matches_istio(pod_rules, istio_version, **expectation)


def test_what_the_options_of_the_pod_open_is_reviewed(
    pod_rules,
    istio_version,
    istio_options,
    reviewed_bypasses,
    accepted_options,
    sidecar_pod,
    today,
    notice,
):
    pod = {
        "rules": pod_rules,
        "pod": sidecar_pod.name,
        "host": sidecar_pod.host,
        "accepted": accepted_options,
        "users": sidecar_pod.users,
        "today": today,
    }
    for finding in check_reviewed_bypasses(istio_version, istio_options, reviewed_bypasses, **pod):
        if finding.severity is Severity.NOTICE:
            notice(finding.summary)
    assert_reviewed_bypasses(istio_version, istio_options, reviewed_bypasses, **pod)
