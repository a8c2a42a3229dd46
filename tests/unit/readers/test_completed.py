"""A program that the pod lacks is run where there is one; nothing else is."""

from __future__ import annotations

from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.failure import Message
from pytest_istio_sidecar.machine.command import NOT_FOUND, CommandResult
from pytest_istio_sidecar.readers.runner import Completed


class Place:
    """A double of where commands run: it has these programs."""

    def __init__(self, name: str, *programs: str) -> None:
        self.name = name
        self.programs = programs

    def run(self, argv, *, timeout):
        status = 0 if argv[0] in self.programs else NOT_FOUND
        return CommandResult(
            argv=tuple(argv), exit_status=status, stdout=self.name, stderr="", seconds=timeout
        )


def place(pod: Place, node: Place | None, program: str = "nft") -> str:
    def elsewhere() -> Place:
        if node is None:
            raise EnvironmentProblem(Message("IS000", "no node here")())
        return node

    return Completed(pod, "nft", elsewhere).run([program], timeout=1).stdout


def test_the_pods_own_is_the_first_choice() -> None:
    assert place(Place("pod", "nft"), Place("node", "nft")) == "pod"


def test_what_the_pod_lacks_is_run_elsewhere() -> None:
    assert place(Place("pod"), Place("node", "nft")) == "node"


def test_where_nobody_has_it_the_pods_answer_stands() -> None:
    assert place(Place("pod"), Place("node")) == "pod"
    assert place(Place("pod"), None) == "pod"


def test_other_programs_are_not_run_elsewhere() -> None:
    assert place(Place("pod"), Place("node", "iptables-nft-save"), "iptables-nft-save") == "pod"
