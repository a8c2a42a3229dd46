"""How options are asked for in a pod: the words of annotations and variables.

Knows which annotation or variable stands for which option. Does not know how they are read
(`pod_options`), nor what they do.
"""

from __future__ import annotations

from pytest_istio_sidecar.istio.option_kinds import ALL, BESIDE, split
from pytest_istio_sidecar.istio.option_table import OPTIONS, Option, OptionValues


def as_a_pod_asks(before: OptionValues, after: OptionValues) -> tuple[str, ...]:
    """Every option that differs, in a pod's words: "excludeInboundPorts: 8443"."""
    return tuple(
        in_words(option, before, after)
        for option in OPTIONS
        if getattr(before, option.name) != getattr(after, option.name)
        and option.asked_by
        and (option.name != "capture_all_dns" or after.redirect_dns)
    )


def in_words(option: Option, before: OptionValues, after: OptionValues) -> str:
    """How a pod asks for the value that one option has after, where it had another."""
    old, new = getattr(before, option.name), getattr(after, option.name)
    word = option.asked_by or option.name
    if isinstance(new, str) and new.startswith(BESIDE):
        return f"{word}: {new.removeprefix(BESIDE)}"
    if isinstance(new, bool):
        return f"{word}: {str(new).lower()}"
    added = [member for member in split(new or "") if member not in split(old or "")]
    gone = [member for member in split(old or "") if member not in split(new or "")]
    if old != ALL and added and not gone:
        return f"{word}: {','.join(added)}"
    if new and gone and not added:
        return f"{word} without {','.join(gone)}"
    return f"{word}: {new or chr(34) * 2}"
