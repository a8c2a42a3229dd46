"""Programs that act on a pod's packets outside netfilter: looked for and named, not judged.

Knows the commands that show them: tc(8), ip-link(8), bpftool-net(8), and /proc/net/ip_vs. Does not know what
they do. Invariant: what has no command in the pod is named as not looked for; what stands on the
other end of the pod's interface is seen from the node only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from pytest_istio_sidecar.machine.command import CommandResult
from pytest_istio_sidecar.readers.runner import Runner

_PLAIN = frozenset({"noqueue", "noop", "mq", "pfifo_fast", "fq_codel", "fq", "pfifo", "bfifo"})
"""Queues without filters that a kernel gives an interface by itself."""
_QDISC = re.compile(r"^qdisc (\S+) \S+ dev (\S+)", re.MULTILINE)
_LINK = re.compile(r"^\d+: ([^:@\s]+)")
_PROGRAM = re.compile(r"^(\S+?)\(\d+\) (.*(?:prog_)?id \d+.*)$", re.MULTILINE)


class _Place(NamedTuple):
    """Where programs may act.

    Attributes:
        name: as a note has it.
        argv: what shows them.
        seen: each that its answer tells of.
    """

    name: str
    argv: Sequence[str]
    seen: Callable[[str], Iterator[str]]


def look_outside(runner: Runner, *, timeout: float) -> tuple[tuple[str, ...], tuple[CommandResult, ...]]:
    """Look for programs that netfilter does not show.

    Args:
        timeout: seconds for each command.

    Returns:
        Notes, one for each place where one was found, and one for what could not be looked at; the answers.

    Raises:
        EnvironmentProblem: nothing can be run in the pod.
    """
    notes, unseen, commands = [], [], []
    for place in _PLACES:
        result = runner.run(place.argv, timeout=timeout)
        if place.name == "IPVS" and "No such file" in result.stderr:
            continue  # the kernel has none
        if not result.succeeded:
            unseen.append(f"{place.name} ({'no ' if result.missing else ''}{place.argv[0]})")
            continue
        commands.append(result)
        found = list(dict.fromkeys(place.seen(result.stdout)))
        if found:
            notes.append(f"{place.name} acts on packets outside netfilter, unseen here: {', '.join(found)}")
    if unseen:
        notes.append(f"not looked for, as nothing in the pod shows it: {', '.join(unseen)}")
    return tuple(notes), tuple(commands)


def _queues(text: str) -> Iterator[str]:
    return (f"{kind} on {device}" for kind, device in _QDISC.findall(text) if kind not in _PLAIN)


def _links(text: str) -> Iterator[str]:
    device = ""
    for line in text.splitlines():
        named = _LINK.match(line)
        device = named[1] if named else device
        if re.search(r"\bprog/xdp\b|\bxdp(generic|offload|drv)?/?\b", line):
            yield f"XDP on {device}"
        if re.search(r"^\s+vrf(_slave)? table", line):
            yield f"VRF on {device}"


def _programs(text: str) -> Iterator[str]:
    return (f"{device} {what}" for device, what in _PROGRAM.findall(text))


def _hooked(text: str) -> Iterator[str]:
    lines = text.partition("netfilter:")[2].splitlines()
    return (line.strip() for line in lines if line.strip())


def _bpf(text: str) -> Iterator[str]:
    yield from _programs(text)
    yield from _hooked(text)


def _services(text: str) -> Iterator[str]:
    return (
        line.split()[0] + " services" for line in text.splitlines() if re.match(r"(TCP|UDP|SCTP|FWM) ", line)
    )


_PLACES = (
    _Place("tc", ("tc", "qdisc", "show"), _queues),
    _Place("XDP or VRF", ("ip", "-d", "link", "show"), _links),
    _Place("eBPF", ("bpftool", "net", "show"), _bpf),
    _Place("IPVS", ("cat", "/proc/net/ip_vs"), _services),
)
