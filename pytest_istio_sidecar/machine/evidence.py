"""The folder of a run's evidence.

Knows how much may be in it and that no secret goes in. Does not know what the files are for.
Invariant: a file is there whole, or not at all and then named in `left-out.txt`; all of them
together stay under `LIMIT`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from pytest_istio_sidecar.machine.redaction import scrub

LIMIT = 5 * 10**6
"""Bytes of a run's folder at most."""
_LEFT_OUT = "left-out.txt"
_RESERVE = 64_000
"""Bytes for the list of what was left out."""


def write_evidence(root: Path, files: Mapping[str, str], *, into: str = "") -> None:
    """Write texts into a run's folder, scrubbed; what there is no room for is named instead.

    A full disk costs the evidence, not the verdict: it is a warning.

    Args:
        root: the run's folder.
        files: texts by file name.
        into: a folder in it, made when it is not there.
    """
    folder = root / into
    try:
        folder.mkdir(parents=True, exist_ok=True)
        used = {path: path.stat().st_size for path in root.rglob("*") if path.is_file()}
        for name, text in files.items():
            content = scrub(text).encode(errors="backslashreplace")
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            if sum(used.values()) - used.get(path, 0) + len(content) > LIMIT - _RESERVE:
                _name(root, path, len(content))
                continue
            path.write_bytes(content)
            used[path] = len(content)
    except OSError as problem:
        warnings.warn(f"the evidence in {root} is not complete: {problem}", stacklevel=3)


def add_file(files: dict[str, str], path: str, text: str) -> str:
    """Add a text under the last part of its path, with a number in front where another has that name.

    Returns:
        The name that it has.
    """
    name = own = Path(path).name
    for number in count(2):
        if files.setdefault(name, text) == text:
            break
        name = f"{number}-{own}"
    return name


def _name(root: Path, path: Path, size: int) -> None:
    listed = root / _LEFT_OUT
    line = f"{path.relative_to(root)}: {size} bytes, and the folder is kept under {LIMIT}\n"
    names = listed.read_text(encoding="utf-8") if listed.exists() else ""
    if line not in names and len(names) + len(line) < _RESERVE:
        listed.write_text(names + line, encoding="utf-8")
