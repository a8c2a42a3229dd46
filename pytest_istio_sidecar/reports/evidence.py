"""The folder of one failing test: what its verdict rests on, and the command that repeats it.

Knows what belongs into it. Does not know how files are written. Invariant: the folder is enough:
the command in `replay.txt`, run in it, decides as the test did.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from pytest_istio_sidecar.checks.finding import Finding
from pytest_istio_sidecar.checks.wording import packet_fields
from pytest_istio_sidecar.machine.evidence import add_file
from pytest_istio_sidecar.netfilter.trace.trace import Trace
from pytest_istio_sidecar.reports.message import render_trace
from pytest_istio_sidecar.reports.replay import files_of_rules, specifications, surroundings_of
from pytest_istio_sidecar.reports.sentences import explain

_LONGEST = 100
"""Letters of a folder's name at most."""


def folder_name(test: str) -> str:
    """A folder's name for a test's id; two ids never share one."""
    slug = re.sub(r"[^\w.\[\]-]+", "-", test.rpartition("/")[2]).strip("-")
    if slug == test and len(slug) <= _LONGEST:
        return slug
    return f"{slug[:_LONGEST]}-{sha256(test.encode()).hexdigest()[:8]}"


def files_of(
    message: str, findings: Sequence[Finding], around: Mapping[str, str], *, start: Path
) -> dict[str, str]:
    """The files of a failing test.

    Args:
        message: the whole explanation.
        findings: what it rests on; none where something else failed.
        around: what the run keeps of the pod, by file name.
        start: where the places of rules start from.
    """
    files = {**around, "message.txt": f"{message}\n"}
    trace = next((finding.trace for finding in findings if finding.trace is not None), None)
    if trace is None:
        return files
    files["trace.txt"] = "\n".join([render_trace(trace), "", *explain(trace), ""])
    files["packets.jsonl"] = json.dumps(packet_fields(trace.packet)) + "\n"
    files["replay.txt"] = ""
    listings = files_of_rules(trace)
    names = {
        file: add_file(files, file, (start / file).read_bytes().decode(errors="replace"))
        for file in listings
        if (start / file).is_file()
    }
    if names and names.keys() == set(listings):
        files["replay.txt"] = f"{_replay(trace, names)}\n"
    else:
        del files["replay.txt"]
    return files


def _replay(trace: Trace, names: Mapping[str, str]) -> str:
    """The command, for who stands in the folder, where the listings have these names."""
    words = ["istio-sidecar", "trace", *specifications(trace, names)]
    return shlex.join([*words, "--packets", "packets.jsonl", *surroundings_of(trace)])
