"""Programs of releases: checked before they are run, and nothing half done left. The server is a double."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pytest_istio_sidecar.environments.kind.download import MIRROR, find_or_download, release_of
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.istio.versions import clusters
from pytest_istio_sidecar.machine.progress import Progress

PROGRAM = b"#!/bin/sh\necho kind\n"


class Releases(dict[str, bytes]):
    """A double of the releases' servers: file by path; when broken, each answer breaks off."""

    broken = False
    asked: list[str]


@pytest.fixture
def releases(monkeypatch, tmp_path):
    held = Releases()
    held.asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            held.asked.append(self.path)
            content = held.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("content-length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write((content or b"")[: 10 if held.broken else None])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv(MIRROR, f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    yield held
    server.shutdown()
    server.server_close()
    thread.join()


def path_of(url: str) -> str:
    return "/" + url.partition("://")[2].partition("/")[2]


def publish(
    releases: Releases, name: str, version: str, content: bytes, *, checksum: str | None = None
) -> None:
    release = release_of(name, version)
    releases[path_of(release.url)] = content
    told = checksum or hashlib.sha256(content).hexdigest()
    releases[path_of(release.checksum_url)] = f"{told}  {release.file_name}\n".encode()


def get(name: str = "kind", version: str = "0.16.0", *, given: str | None = None) -> str:
    return find_or_download(name, version, given=given, option="--kind-bin", progress=Progress(), timeout=5)


def kept(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "istio-sidecar").iterdir() if path.suffix != ".lock")


def test_a_program_is_downloaded_checked_and_kept_for_the_next_time(releases, tmp_path) -> None:
    publish(releases, "kind", "0.16.0", PROGRAM)
    path = Path(get())
    assert path.read_bytes() == PROGRAM
    assert path.stat().st_mode & 0o111
    asked = len(releases.asked)
    assert get() == str(path)
    assert len(releases.asked) == asked
    assert kept(tmp_path) == ["kind-0.16.0"]


def test_a_program_that_is_not_what_its_release_says_is_not_kept(releases, tmp_path) -> None:
    publish(releases, "kind", "0.16.0", PROGRAM, checksum="0" * 64)
    with pytest.raises(EnvironmentProblem, match="is not what its release says it is"):
        get()
    assert kept(tmp_path) == []


def test_a_pinned_program_is_held_against_its_pin_whatever_its_server_says(releases, tmp_path) -> None:
    pinned = clusters()[0].kind
    publish(releases, "kind", pinned, PROGRAM)
    with pytest.raises(EnvironmentProblem, match="is not what its release says it is"):
        get("kind", pinned)
    assert kept(tmp_path) == []


def test_a_download_that_breaks_off_is_not_kept(releases, tmp_path) -> None:
    publish(releases, "kind", "0.16.0", PROGRAM)
    releases.broken = True
    with pytest.raises(EnvironmentProblem):
        get()
    assert kept(tmp_path) == []


def test_a_checksum_file_without_checksum_is_refused(releases) -> None:
    publish(releases, "kind", "0.16.0", PROGRAM, checksum="<html>")
    with pytest.raises(EnvironmentProblem, match="has no SHA-256 in it"):
        get()


def test_what_cannot_be_had_is_told_with_its_address_and_what_helps(releases) -> None:
    with pytest.raises(EnvironmentProblem) as raised:
        get()
    message = str(raised.value)
    assert message.startswith("there is no kind on the PATH, and 0.16.0 could not be downloaded\n")
    assert "404" in message
    assert "--kind-bin" in message
    assert "--istio-environment=embedded" in message


def archive(name: str, content: bytes = PROGRAM) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as held:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        held.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_istioctl_is_taken_out_of_its_archive(releases) -> None:
    publish(releases, "istioctl", "1.8.3", archive("istioctl"))
    assert Path(get("istioctl", "1.8.3")).read_bytes() == PROGRAM


def test_an_archive_that_reaches_out_of_its_folder_writes_nothing_there(releases, tmp_path) -> None:
    publish(releases, "istioctl", "1.8.3", archive("../../istioctl"))
    get("istioctl", "1.8.3")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["istio-sidecar"]


def test_an_archive_without_the_program_is_told(releases) -> None:
    publish(releases, "istioctl", "1.8.3", archive("README.md"))
    with pytest.raises(EnvironmentProblem, match="has no istioctl in it"):
        get("istioctl", "1.8.3")


def test_what_is_given_is_taken_and_nothing_downloaded(releases) -> None:
    assert get(given="/bin/sh") == "/bin/sh"
    with pytest.raises(EnvironmentProblem, match="--kind-bin=/nowhere/kind is no program"):
        get(given="/nowhere/kind")
    assert releases.asked == []


@pytest.mark.parametrize(
    ("version", "file"),
    [("1.5.10", "istioctl-1.5.10-linux.tar.gz"), ("1.8.3", "istioctl-1.8.3-linux-amd64.tar.gz")],
)
def test_istio_named_its_archives_without_processor_before_1_6(monkeypatch, version: str, file: str) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert release_of("istioctl", version).file_name == file
