"""What a machine lacks for a cluster: each line that is not well says what to do."""

from __future__ import annotations

import json
import platform
import re
import sys
from pathlib import Path

import pytest

from pytest_istio_sidecar.cli import main
from pytest_istio_sidecar.environments import doctor
from pytest_istio_sidecar.environments.doctor import Condition, Line, examine


@pytest.fixture
def programs(monkeypatch, tmp_path):
    """A function that puts a program on an otherwise empty PATH: a double that prints a text."""
    monkeypatch.setattr(doctor, "find_program", lambda name: _find(tmp_path, name))
    monkeypatch.setattr(doctor, "answers", lambda _: True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def put(name: str, says: str, *, status: int = 0) -> None:
        path = tmp_path / name
        path.write_text(f"#!{sys.executable}\nimport sys\nprint({says!r})\nsys.exit({status})\n")
        path.chmod(0o755)

    return put


def _find(folder: Path, name: str) -> str | None:
    return str(folder / name) if (folder / name).exists() else None


def line(name: str, version: str = "1.8.3") -> Line:
    return next(found for found in examine(version) if found.name == name)


def test_what_is_missing_is_told_with_what_to_do(programs) -> None:
    found = line("engine")
    assert found.condition is Condition.MISSING
    assert found.advice


def test_what_is_downloaded_when_needed_is_not_called_missing(programs) -> None:
    for name in ("kind", "kubectl", "istioctl"):
        found = line(name)
        assert found.condition is Condition.DOUBTFUL
        assert "downloaded when needed" in found.found
        assert "where no download is possible" in found.advice


def test_the_disk_that_is_looked_at_is_the_engines(programs, tmp_path) -> None:
    programs("docker", str(tmp_path))
    assert line("disk").found.endswith(f"free at {tmp_path}")


def test_every_line_that_is_not_well_has_advice(programs) -> None:
    for found in examine("1.8.3"):
        assert found.advice or found.condition is Condition.WELL, found


def test_programs_are_told_with_version_and_path(programs, tmp_path) -> None:
    programs("kind", "kind v0.30.0 go1.24 linux/amd64")
    assert line("kind") == Line(
        name="kind", condition=Condition.WELL, found=f"0.30.0 ({tmp_path}/kind)", advice=""
    )


def test_a_kind_older_than_the_one_the_node_image_is_for_is_doubtful(programs) -> None:
    programs("kind", "kind v0.17.0 go1.19 linux/amd64")
    assert line("kind").condition is Condition.WELL
    found = line("kind", "1.30.3")
    assert found.condition is Condition.DOUBTFUL
    assert "older than 0.31.0" in found.advice


@pytest.mark.parametrize("version", ["1.8.3", "1.30.3"])
def test_the_registry_that_the_nodes_pull_from_is_told(programs, version) -> None:
    assert line("images", version).found.startswith("docker.io/istio,")


def test_programs_that_are_neither_here_nor_to_be_downloaded_are_missing(programs, monkeypatch) -> None:
    programs("kind", "kind v0.17.0")
    assert line("downloads").condition is Condition.WELL
    monkeypatch.setattr(doctor, "answers", lambda url: "github.com" not in url)
    found = line("downloads")
    assert (found.condition, found.found) == (Condition.MISSING, "no answer of github.com, for istioctl")
    assert "ISTIO_SIDECAR_MIRROR=URL" in found.advice


def test_nothing_is_asked_for_programs_that_are_here(programs, monkeypatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(doctor, "answers", lambda url: asked.append(url) or True)
    for name in ("kind", "kubectl", "istioctl"):
        programs(name, "1.8.3")
    assert "downloads" not in [found.name for found in examine("1.8.3")]
    assert asked == ["https://registry-1.docker.io/v2/"]


def test_a_mirror_is_asked_in_place_of_the_releases_servers(programs, monkeypatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(doctor, "answers", lambda url: asked.append(url) or True)
    monkeypatch.setenv("ISTIO_SIDECAR_MIRROR", "https://mirror.example/files")
    assert line("downloads").found == "mirror.example can be reached"
    assert asked[0].startswith("https://mirror.example/files/kubernetes-sigs/kind/")


def test_a_registry_that_does_not_answer_is_missing_unless_the_engine_has_the_images(
    programs, monkeypatch
) -> None:
    monkeypatch.setattr(doctor, "answers", lambda url: "docker.io" not in url)
    found = line("registry")
    assert (found.condition, found.found) == (Condition.MISSING, "no answer of docker.io")
    programs("docker", "[]")
    found = line("registry")
    assert found.condition is Condition.DOUBTFUL
    assert "--istio-load-image=docker.io/istio/proxyv2:1.8.3" in found.advice


@pytest.mark.parametrize(
    ("version", "condition"),
    [("1.19.16", Condition.WELL), ("1.20.1", Condition.WELL), ("1.32.0", Condition.DOUBTFUL)],
)
def test_a_kubectl_too_far_from_the_clusters_release_is_doubtful(programs, version, condition) -> None:
    programs("kubectl", f"Client Version: v{version}")
    found = line("kubectl")
    assert found.condition is condition
    assert ("one minor release apart" in found.advice) is (condition is Condition.DOUBTFUL)


def test_an_istioctl_of_another_release_is_doubtful(programs) -> None:
    programs("istioctl", "1.9.0")
    assert "--istio-version=1.9.0" in line("istioctl").advice


def test_an_engine_that_does_not_answer_is_missing(programs) -> None:
    programs("docker", "Cannot connect to the Docker daemon", status=1)
    found = line("engine")
    assert found.condition is Condition.MISSING
    assert "Cannot connect to the Docker daemon" in found.found


def test_podman_alone_is_told_with_what_kind_needs_for_it(programs) -> None:
    programs("podman", "podman")
    assert "KIND_EXPERIMENTAL_PROVIDER=podman" in line("engine").advice


@pytest.mark.parametrize(
    ("system", "machine", "words"),
    [("Darwin", "arm64", "macOS has no iptables"), ("Linux", "aarch64", "amd64 images only")],
)
def test_other_machines_are_told_what_to_expect(monkeypatch, programs, system, machine, words) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert words in line("machine").advice


def test_the_command_ends_with_3_when_something_is_missing(programs, capsys) -> None:
    assert main(["doctor"]) == 3
    printed = capsys.readouterr().out
    assert "missing  engine" in printed
    assert "-> install Docker" in printed
    assert "install kind 0.17.0" in printed


def test_the_commands_json_is_one_document(programs, capsys) -> None:
    main(["doctor", "--json", "--istio-version", "1.20.8"])
    told = json.loads(capsys.readouterr().out)
    assert told["istio"] == "1.20.8"
    assert {"name", "condition", "found", "advice"} == told["lines"][0].keys()


def test_the_matrix_is_what_github_actions_takes(capsys) -> None:
    assert main(["matrix", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["include"][0]["istio"] == "1.8.3"
    assert told["include"][0]["node_image"].startswith("kindest/node:v1.19.16@sha256:")


def test_every_pair_of_the_matrix_has_the_registry_of_its_images(capsys) -> None:
    main(["matrix", "--json"])
    assert {pair["hub"] for pair in json.loads(capsys.readouterr().out)["include"]} == {"docker.io/istio"}


def test_the_matrix_has_checksums_where_a_source_gives_them_and_nothing_elsewhere(capsys) -> None:
    main(["matrix", "--json"])
    pairs = {pair["istio"]: pair for pair in json.loads(capsys.readouterr().out)["include"]}
    assert all(re.fullmatch("[0-9a-f]{64}", pair["kind_sha256"]) for pair in pairs.values())
    assert re.fullmatch("[0-9a-f]{64}", pairs["1.30.3"]["istioctl_sha256"])
    assert pairs["1.8.3"]["istioctl_sha256"] == ""
