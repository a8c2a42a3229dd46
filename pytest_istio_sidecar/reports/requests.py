"""Real requests in a few lines, by what Envoy did with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_UNDECIDED = "nothing shows whether Envoy saw them"


def describe_requests(records: Sequence[Mapping[str, object]]) -> list[tuple[str, str]]:
    """Labelled lines: requests that were captured first, then those that were not, then what is not known."""
    groups: dict[tuple[str, str], dict[str, None]] = {}
    for record in records:
        inbound = record["request"] == "inbound"
        sender = f"uid {record['uid']}" + (f" gid {record['gid']}" if record["gid"] != record["uid"] else "")
        if record["captured"]:
            fate = f"captured by Envoy's {record['captured']} listener"
        else:
            fate = "not captured" if record["decided"] else _UNDECIDED
        group = groups.setdefault((fate, f"{record['request']} {'to' if inbound else 'from'}"), {})
        group[str(record["port"]) if inbound else sender] = None
    return [
        ("real requests", f"{what} {', '.join(members)}: {fate}")
        for (fate, what), members in sorted(groups.items(), key=lambda item: _place(item[0][0]))
    ]


def _place(fate: str) -> int:
    return 2 if fate == _UNDECIDED else 1 if fate == "not captured" else 0
