"""How options are asked for in a pod: the words of annotations and variables.

Knows which annotation or variable stands for which option. Does not know how they are read
(`pod_options`), nor what they do.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_istio_sidecar.istio.option_kinds import ALL, split
from pytest_istio_sidecar.istio.option_table import OPTIONS, OptionValues


def as_a_pod_asks(before: OptionValues, after: OptionValues) -> tuple[str, ...]:
    """Every option that differs, in a pod's words: "excludeInboundPorts: 8443"."""
    return tuple(_differences(before, after))


def _differences(before: OptionValues, after: OptionValues) -> Iterator[str]:
    for option in OPTIONS:
        old, new, word = getattr(before, option.name), getattr(after, option.name), option.asked_by
        if old == new or not word or (option.name == "capture_all_dns" and not after.redirect_dns):
            continue
        if isinstance(new, bool):
            yield f"{word}: {str(new).lower()}"
            continue
        added = [member for member in split(new or "") if member not in split(old or "")]
        gone = [member for member in split(old or "") if member not in split(new or "")]
        if old != ALL and added and not gone:
            yield f"{word}: {','.join(added)}"
        elif new and gone and not added:
            yield f"{word} without {','.join(gone)}"
        else:
            yield f"{word}: {new or chr(34) * 2}"
