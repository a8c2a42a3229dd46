"""One real run for each class of fault in a cluster that is there: it ends with a sentence, in time.

The whole matrix runs with fakes in seconds elsewhere; here is the proof that the fakes do not lie.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from ground import CHECKOUT, Lab

ONE_TEST = """
def test_the_rules_are_read(iptables_nat):
    assert iptables_nat.chain("ISTIO_REDIRECT").rules
"""


def with_a_test(place: Lab, text: str = ONE_TEST) -> Lab:
    (place.directory / "test_mine.py").write_text(text)
    return place


def test_an_istioctl_that_hangs_ends_at_the_deadline(standing_lab: Callable[..., Lab]) -> None:
    place = with_a_test(standing_lab(fault="install-hangs"))
    done = place.run("test_mine.py", "--istio-timeout=30")
    assert done.status == 1, done.output
    assert "ended at its deadline" in done.output
    assert "Processing resources for Istio core" in done.output, "the last output belongs to the error"
    assert done.count("error") == 1


@pytest.mark.parametrize(
    ("fault", "options", "said"),
    [
        ("install-fails", (), "✘ Istiod encountered an error"),
        ("istiod-never-ready", ("--istio-timeout=40",), "istiod"),
        ("injection-refused", (), "injection refused, as asked for"),
        (
            "webhook-never-ready",
            ("--istio-injection=webhook", "--istio-timeout=40"),
            "a pod passed unchanged",
        ),
        ("revert-privileged-deployment", (), "takes the edit back"),
        ("revert-privileged-pod", (), "takes the edit back"),
        ("refuse-privileged", ("--istio-timeout=60",), "violates PodSecurity"),
    ],
)
def test_what_istio_refuses_is_an_error_that_says_so(
    standing_lab: Callable[..., Lab], fault: str, options: tuple[str, ...], said: str
) -> None:
    place = with_a_test(standing_lab(fault=fault, delay=1))
    done = place.run("test_mine.py", *options)
    assert done.status == 1, done.output
    assert done.count("error") == 1, done.output
    assert said in done.output
    assert place.exists(), "a cluster that was there is not deleted"


def test_an_api_server_that_restarts_is_waited_for(standing_lab: Callable[..., Lab]) -> None:
    place = with_a_test(standing_lab())
    run = place.start("test_mine.py")
    place.wait_for("deploying deployment/httpbin", run)
    node = f"{place.name}-control-plane"
    ask = ("docker", "exec", node, "pgrep", "-x", "kube-apiserver")
    process = place.testbed.run(*ask).stdout.strip()
    place.testbed.run("docker", "exec", node, "kill", "-9", process)
    done = place.end(run)
    assert done.status == 0, done.output


A_MANIFEST_OF_MINE = """
import pytest
from pathlib import Path


@pytest.fixture(scope="session")
def istio_manifests():
    return [Path("mine.yaml")]


def test_it(iptables_nat):
    pass
"""


def test_an_istio_init_that_fails_is_told_with_its_last_words(standing_lab: Callable[..., Lab]) -> None:
    place = with_a_test(standing_lab(), A_MANIFEST_OF_MINE)
    documents = list(yaml.safe_load_all((CHECKOUT / "manifests" / "httpbin.yaml").read_text()))
    # The double's istio-init ends with an error at options whose tables were not recorded.
    annotations = {"traffic.sidecar.istio.io/excludeOutboundPorts": "4711"}
    documents[-1]["spec"]["template"]["metadata"]["annotations"] = annotations
    (place.directory / "mine.yaml").write_text(yaml.safe_dump_all(documents))
    done = place.run("test_mine.py", "--istio-timeout=30")
    assert done.status == 1, done.output
    assert re.search(r"log +of istio-init in httpbin-", done.output), done.output
    assert "no table was recorded for {'OutboundPortsExclude': '4711'}" in done.output, done.output
    assert re.search(r"cause +istio-init cannot write its rules", done.output)


EVICTED = """
import subprocess
from pathlib import Path


def test_it(istio_environment, sidecar_pod):
    kubeconfig = next(Path("runtime").rglob("kubeconfig"))
    namespace, _, name = sidecar_pod.name.partition("/")
    argv = ["kubectl", "--kubeconfig", kubeconfig, "delete", "pod", "-n", namespace, name]
    subprocess.run(argv, check=True, timeout=90)
    istio_environment.read_rules()
"""


def test_an_evicted_pod_is_named(standing_lab: Callable[..., Lab]) -> None:
    place = with_a_test(standing_lab(), EVICTED)
    done = place.run("test_mine.py")
    assert done.status == 1, done.output
    assert "httpbin-" in done.output
    assert "Traceback" not in done.output


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "full"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(directory)]
    if subprocess.run(mount, capture_output=True, timeout=10, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with (directory / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(b"\0" * 4096)
        yield directory
    finally:
        subprocess.run(["umount", directory], timeout=10, check=True)


def test_a_full_disk_under_the_evidence_costs_no_verdict(
    standing_lab: Callable[..., Lab], full_disk: Path
) -> None:
    place = with_a_test(standing_lab())
    done = place.run("test_mine.py", f"--istio-evidence={full_disk / 'evidence'}")
    assert done.count("passed") == 1, done.output
    assert "No space left on device" in done.output
