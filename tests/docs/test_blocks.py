"""Every code block of README and docs/ does what its page says, or the page says why it is not run.

Each runs in a folder of its own, with the files that its section gives and two listings: `lab.txt`, the
lab's printed one, and `httpbin.rules`, what iptables-save said in a real pod of Istio 1.8.3.
"""

from __future__ import annotations

import configparser
import json
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from markdown_blocks import CHECKOUT, Block, Kind, blocks_of, commands_of, every_block, matches

from pytest_istio_sidecar import parse_iptables
from pytest_istio_sidecar.cli import build_parser
from pytest_istio_sidecar.plugin.settings import Settings

DATA = CHECKOUT / "tests" / "data"
LISTINGS = {
    "lab.txt": DATA / "lab-listing-1.8.3.txt",
    "httpbin.rules": DATA / "observed-1.8.3" / "iptables-legacy-save-c.txt",
    "pod.json": DATA / "observed-1.8.3" / "pod.json",
}
SECONDS = 120


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "work"
    place.mkdir()
    for name, source in LISTINGS.items():
        shutil.copy(source, place / name)
    return place


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables of a user who has just installed the project, without cluster and without network."""
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(runtime),
        "KUBECONFIG": str(tmp_path / "no-kubeconfig"),
        "ISTIO_SIDECAR_MIRROR": "http://127.0.0.1:9",
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
        "PYTHONDONTWRITEBYTECODE": "1",
        "COLUMNS": "80",
        "LC_ALL": "C.UTF-8",
    }


def identified(blocks: list[Block]) -> list[object]:
    return [pytest.param(block, id=block.place) for block in blocks]


@pytest.mark.parametrize("block", identified([block for block in every_block() if block.runs]))
def test_a_block_runs_as_its_page_says(request, block: Block, folder: Path, environment: dict[str, str]):
    if block.directives.get("needs") == "embedded":
        request.getfixturevalue("able_machine")
    place_files(block, folder)
    match block.kind:
        case Kind.SESSION:
            run_session(block, folder, environment)
        case Kind.COMMANDS:
            run(["bash", "-euo", "pipefail", "-c", block.text], block, folder, environment)
        case Kind.SCRIPT:
            run([sys.executable, "-W", "error", "-c", block.text], block, folder, environment)
        case Kind.TESTS:
            (folder / "test_block.py").write_text(block.text)
            options = shlex.split(block.directives.get("run with", ""))
            run(["pytest", "test_block.py", *options], block, folder, environment)


def place_files(block: Block, folder: Path) -> None:
    """Write the files that stand above the block in its section."""
    for held in blocks_of(block.page):
        if held.file is not None and held.section == block.section and held.line < block.line:
            path = folder / held.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(held.text)


def run(argv: list[str], block: Block, folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        argv, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == block.status, f"{block.place} ended with {done.returncode}\n{done.stdout}"
    return done.stdout


def run_session(block: Block, folder: Path, environment: dict[str, str]) -> None:
    commands = commands_of(block)
    for number, (command, shown) in enumerate(commands, 1):
        last = number == len(commands)
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == (block.status if last else 0), f"{block.place}: {command}\n{done.stdout}"
        assert matches(done.stdout, shown or ""), f"{block.place}: {command} prints\n{done.stdout}"


NOT_RUN = [block for block in every_block() if block.not_run is not None]


def commands_not_run() -> list[object]:
    return [
        pytest.param(block, command, id=f"{block.place}-{number}")
        for block in NOT_RUN
        if block.kind in (Kind.COMMANDS, Kind.SESSION)
        for number, (command, _) in enumerate(commands_of(block), 1)
        if own_words(command)
    ]


def own_words(command: str) -> list[str]:
    """The words of a command of this project, without variables, pipes and redirections."""
    words = shlex.split(command, comments=True)
    while words and "=" in words[0]:
        del words[0]
    for number, word in enumerate(words):
        if word in ("|", ">", "<", "&&"):
            words = words[:number]
            break
    return words if words[:1] in (["pytest"], ["istio-sidecar"]) else []


@pytest.mark.parametrize(("block", "command"), commands_not_run())
def test_a_command_that_is_not_run_has_only_options_that_there_are(pytester, block: Block, command: str):
    program, *words = own_words(command)
    if program == "istio-sidecar":
        _, others = build_parser().parse_known_args(words)
        if words[0] != "check":
            assert others == []
            return
        words = others
    assert Settings.from_config(pytester.parseconfig(*words))


DATA_BLOCKS = [block for block in every_block() if block.kind is Kind.DATA and block.language != "text"]


@pytest.mark.parametrize("block", identified(DATA_BLOCKS))
def test_a_block_of_data_can_be_read(block: Block):
    match block.language:
        case "yaml":
            assert list(yaml.safe_load_all(block.text))
        case "toml":
            assert tomllib.loads(block.text)
        case "json":
            assert json.loads(block.text)
        case "ini":
            configparser.ConfigParser().read_string(block.text)
        case "iptables":
            parse_iptables(block.text)
