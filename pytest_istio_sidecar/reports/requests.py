"""Real requests in a few lines, by what Envoy did with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def describe_requests(records: Sequence[Mapping[str, object]]) -> list[tuple[str, str]]:
    """Labelled lines: requests that were captured first."""
    groups: dict[tuple[str, str], dict[str, None]] = {}
    for record in records:
        inbound = record["request"] == "inbound"
        sender = f"uid {record['uid']}" + (f" gid {record['gid']}" if record["gid"] != record["uid"] else "")
        fate = f"captured by Envoy's {record['captured']} listener" if record["captured"] else "not captured"
        group = groups.setdefault((fate, f"{record['request']} {'to' if inbound else 'from'}"), {})
        group[str(record["port"]) if inbound else sender] = None
    return [
        ("real requests", f"{what} {', '.join(members)}: {fate}")
        for (fate, what), members in sorted(groups.items(), key=lambda item: item[0][0].startswith("not"))
    ]
