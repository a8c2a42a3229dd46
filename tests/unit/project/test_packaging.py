"""What a user gets by installing: names, entry points and data files."""

import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).parents[3]
DISTRIBUTION = "pytest-istio-sidecar"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel as the build back end makes it from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.mark.parametrize("name", ["kind-config.yaml", "manifests/httpbin.yaml"])
def test_the_wheel_carries_the_clusters_files_as_the_checkout_has_them(wheel, name):
    assert wheel.read(f"pytest_istio_sidecar/{name}") == (CHECKOUT / name).read_bytes()


def test_the_wheel_carries_the_typing_marker_and_the_licence(wheel):
    names = wheel.namelist()
    assert "pytest_istio_sidecar/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_carries_every_file_of_the_package_and_no_test(wheel):
    package = CHECKOUT / "pytest_istio_sidecar"
    source = {
        path.relative_to(CHECKOUT).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == source


def test_every_manifest_of_the_checkout_is_linked_into_the_package():
    top = {path.name for path in (CHECKOUT / "manifests").iterdir()}
    assert {path.name for path in (CHECKOUT / "pytest_istio_sidecar/manifests").iterdir()} == top


def test_pytest_finds_the_plugin_by_its_entry_point():
    (entry,) = (e for e in metadata.distribution(DISTRIBUTION).entry_points if e.group == "pytest11")
    assert (entry.name, entry.value) == ("istio-sidecar", "pytest_istio_sidecar.plugin")
    assert entry.load().__name__ == "pytest_istio_sidecar.plugin"


def test_the_console_script_starts():
    (entry,) = (e for e in metadata.distribution(DISTRIBUTION).entry_points if e.group == "console_scripts")
    assert entry.name == "istio-sidecar"
    assert callable(entry.load())


def test_httpbins_service_reaches_the_port_that_its_container_opens():
    manifest = yaml.safe_load_all((CHECKOUT / "manifests/httpbin.yaml").read_text())
    account, service, deployment = manifest
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    (port,) = service["spec"]["ports"]
    assert pod["metadata"]["labels"] == {"app": "httpbin", "version": "v1"}
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert (port["port"], port["targetPort"]) == (8000, container["ports"][0]["containerPort"])
    assert pod["spec"]["serviceAccountName"] == account["metadata"]["name"]


def test_the_cluster_is_one_node():
    config = yaml.safe_load((CHECKOUT / "kind-config.yaml").read_text())
    assert (config["kind"], config["apiVersion"]) == ("Cluster", "kind.x-k8s.io/v1alpha4")
    assert [node["role"] for node in config["nodes"]] == ["control-plane"]
