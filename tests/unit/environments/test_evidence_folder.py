"""A folder that a reading wrote is the pod again: what is empty there is known to be empty."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from netfilter_data import DATA

from pytest_istio_sidecar.environments.excerpts import pod_as_evidence
from pytest_istio_sidecar.environments.file import read_given
from pytest_istio_sidecar.errors import EnvironmentProblem, ParseError, UsageProblem
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.machine.command import NOT_FOUND, CommandResult, kept
from pytest_istio_sidecar.machine.evidence import write_evidence
from pytest_istio_sidecar.netfilter.kernel.unread import NFT_UNREAD

OBSERVED = DATA / "observed-1.20.8"
COMMANDS = ("iptables-legacy-save", "iptables-nft-save", "ip6tables-legacy-save", "ip6tables-nft-save")


def answer(program: str, stdout: str = "", stderr: str = "", status: int = 0) -> CommandResult:
    return CommandResult(
        argv=("sudo", program, "-c"), exit_status=status, stdout=stdout, stderr=stderr, seconds=0
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the product keeps of the recorded pod."""
    answers = [answer(program, (OBSERVED / f"{program}_-c.txt").read_text()) for program in COMMANDS]
    pod = json.loads((OBSERVED / "pod.json").read_text())
    write_evidence(tmp_path, {**kept(answers), "pod.json": pod_as_evidence(pod)}, into="run")
    return tmp_path / "run"


def test_every_back_end_and_family_is_read_and_empty_ones_are_known_to_be_so(folder: Path) -> None:
    rules = read_given([str(folder)]).rules
    told = {
        (ruleset.family, str(ruleset.backend)): sum(1 for _ in ruleset.rules()) for ruleset in rules.rulesets
    }
    assert told == {(4, "legacy"): 18, (4, "nf_tables"): 0, (6, "legacy"): 0, (6, "nf_tables"): 0}
    assert rules.notes == (NFT_UNREAD,)


def test_pod_release_and_options_are_known(folder: Path) -> None:
    given = read_given([str(folder)])
    pod = json.loads((OBSERVED / "pod.json").read_text())
    assert given.rules.pod == f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    assert given.version == "1.20.8"
    assert given.options == IstioOptions.from_pod(pod)


def test_options_that_variables_tell_outlive_the_folder(folder: Path) -> None:
    pod = json.loads((OBSERVED / "pod.json").read_text())
    (init,) = (each for each in pod["spec"]["initContainers"] if each["name"] == "istio-init")
    init["env"] = [{"name": "KUBE_VIRT_INTERFACES", "value": "k6t0"}, {"name": "TOKEN", "value": "hunter2"}]
    (folder / "pod.json").write_text(pod_as_evidence(pod))
    assert "hunter2" not in (folder / "pod.json").read_text()
    options = read_given([str(folder)]).options
    assert options is not None
    assert "k6t0" in str(options)


def test_a_rule_is_placed_in_the_file_that_keeps_it(folder: Path) -> None:
    rule = next(read_given([str(folder)]).rules.rulesets[0].rules())
    file, _, line = rule.location.rpartition(":")
    assert rule.text in Path(file).read_text().splitlines()[int(line) - 1]


def test_a_back_end_whose_command_was_not_there_is_not_taken_for_empty(folder: Path) -> None:
    missing = answer("iptables-nft-save", stderr="sh: iptables-nft-save: not found", status=NOT_FOUND)
    (folder / "iptables-nft-save_c.txt").unlink()
    write_evidence(folder, kept([missing]))
    rules = read_given([str(folder)]).rules
    assert (4, "nf_tables") not in {(ruleset.family, str(ruleset.backend)) for ruleset in rules.rulesets}
    assert "iptables-nft-save is not in the pod: rules of its back end would not be seen" in rules.notes


def test_no_rule_is_not_said_where_a_back_end_was_not_read(folder: Path) -> None:
    (folder / "iptables-legacy-save_c.txt").unlink()
    with pytest.raises(EnvironmentProblem, match="not every back end has its command"):
        read_given([str(folder)])


def test_a_failed_reading_is_not_taken_for_empty(folder: Path) -> None:
    failed = answer("iptables-legacy-save", stderr="Permission denied (you must be root)", status=1)
    write_evidence(folder, kept([failed]))
    with pytest.raises(EnvironmentProblem, match="cannot read the iptables tables"):
        read_given([str(folder)])


def test_a_remark_on_the_other_back_end_is_no_failure(folder: Path) -> None:
    remark = "# Warning: iptables-legacy tables present, use iptables-legacy-save to see them\n"
    write_evidence(folder, kept([answer("iptables-nft-save", stderr=remark)]))
    assert len(read_given([str(folder)]).rules.rulesets) == 4


def test_a_folder_with_the_log_of_istio_init_alone_is_read(tmp_path: Path) -> None:
    shutil.copy(DATA / "reports" / "13-oke-init-log-dns.txt", tmp_path / "kubectl_logs_c_istio-init.txt")
    rules = read_given([str(tmp_path)]).rules
    assert sum(1 for _ in rules.rulesets[0].rules()) == 28
    assert rules.notes[0].startswith("as loaded at start, not as now")


def test_another_folder_is_refused_and_the_one_in_it_named(folder: Path) -> None:
    with pytest.raises(UsageProblem, match=f"no folder with what was read of a pod; {folder} is one"):
        read_given([str(folder.parent)])


@pytest.mark.parametrize("named", [["nft:FOLDER"], ["FOLDER", "legacy:FILE"]])
def test_a_folder_stands_alone_and_without_a_prefix(folder: Path, named: list[str]) -> None:
    file = folder / "iptables-legacy-save_c.txt"
    with pytest.raises(UsageProblem, match="give it alone"):
        read_given([word.replace("FOLDER", str(folder)).replace("FILE", str(file)) for word in named])


def test_a_pod_that_is_none_is_refused(folder: Path) -> None:
    (folder / "pod.json").write_text("[]")
    with pytest.raises(UsageProblem, match=r"pod\.json"):
        read_given([str(folder)])


def test_the_file_of_an_empty_back_end_alone_is_refused_with_what_to_give(folder: Path) -> None:
    with pytest.raises(ParseError) as raised:
        read_given([str(folder / "iptables-nft-save_c.txt")])
    assert "this back end holds no table" in raised.value.failure.cause
    assert "the folder that `istio-sidecar read` writes" in raised.value.failure.fix
