"""versions.toml is where versions come from: the workflows, the documentation and the code have no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from pytest_istio_sidecar.environments.choices import DEFAULT_VERSION
from pytest_istio_sidecar.istio.rules import ERAS
from pytest_istio_sidecar.istio.versions import clusters, default_hub, known_versions
from pytest_istio_sidecar.plugin.options import OPTIONS

CHECKOUT = Path(__file__).parents[3]
SOURCE = CHECKOUT / "pytest_istio_sidecar" / "istio" / "versions.toml"
CODE = [
    path
    for path in (CHECKOUT / "pytest_istio_sidecar").rglob("*")
    if path.suffix in (".py", ".toml", ".yaml")
]
WORKFLOWS = [*(CHECKOUT / ".github" / "workflows").glob("*.yml"), CHECKOUT / "action.yml"]
PAGES = [CHECKOUT / "README.md", *(CHECKOUT / "docs").rglob("*.md")]
MANIFESTS = [CHECKOUT / "kind-config.yaml", *(CHECKOUT / "manifests").rglob("*.yaml")]
EVERYTHING = [path for path in (*CODE, *WORKFLOWS, *PAGES, *MANIFESTS) if path != SOURCE]


def named(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


@pytest.mark.parametrize("path", EVERYTHING, ids=named)
def test_no_digest_of_a_node_image_stands_anywhere_else(path: Path) -> None:
    digests = {pair.node_image.partition("@sha256:")[2] for pair in clusters()}
    text = path.read_text(encoding="utf-8")
    assert not [digest for digest in digests if digest in text]
    assert not re.findall(r"kindest/node:\S*@sha256:[0-9a-f]+", text)


@pytest.mark.parametrize("path", [*CODE, *PAGES], ids=named)
def test_every_node_image_that_is_named_is_one_of_the_pairs(path: Path) -> None:
    named_here = re.findall(r"kindest/node:v(\d[\d.]*\d)", path.read_text(encoding="utf-8"))
    assert set(named_here) <= {pair.kubernetes for pair in clusters()}


@pytest.mark.parametrize("path", EVERYTHING, ids=named)
def test_images_of_istio_are_named_at_the_registry_that_they_come_from(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"[\w./-]+(?=/(?:pilot|proxyv2):)", text)) <= {default_hub()}
    # Both close in December 2026.
    assert not re.findall(r"gcr\.io/istio-release|registry\.istio\.io", text)


def test_the_option_names_the_registry_of_versions_toml() -> None:
    (help_of_hub,) = [option.help for option in OPTIONS if option.name == "--istio-hub"]
    assert f"(default: {default_hub()}, " in help_of_hub


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_every_release_of_istio_that_a_page_names_is_known(path: Path) -> None:
    releases = set(re.findall(r"Istio (1\.\d+\.\d+(?:-rc\.\d+)?)", path.read_text(encoding="utf-8")))
    assert releases <= set(known_versions())


@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_no_workflow_names_a_release_of_istio_kubernetes_or_kind(path: Path) -> None:
    held = {*known_versions(), *(pair.kubernetes for pair in clusters()), *(pair.kind for pair in clusters())}
    code = re.sub(r"#.*", "", path.read_text(encoding="utf-8"))
    assert not set(re.findall(r"(?<![\w.])v?(\d+\.\d+\.\d+)(?![\w.])", code)) & held


def test_the_pairs_of_the_cluster_workflow_come_from_the_command_that_reads_them() -> None:
    workflow = yaml.safe_load(
        (CHECKOUT / ".github" / "workflows" / "cluster.yml").read_text(encoding="utf-8")
    )
    matrices = [
        job["strategy"]["matrix"] for job in workflow["jobs"].values() if "matrix" in job.get("strategy", {})
    ]
    assert matrices == ["${{ fromJson(needs.plan.outputs.matrix) }}"]
    steps = " ".join(step.get("run", "") for step in workflow["jobs"]["plan"]["steps"])
    assert "istio-sidecar matrix --json" in steps


def test_the_releases_that_the_code_names_are_known() -> None:
    assert {*ERAS, DEFAULT_VERSION} <= set(known_versions())
