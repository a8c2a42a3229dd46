"""JSON Patch (RFC 6902) as an API server applies it: the operations that the doubles of one are sent."""

import copy


class PatchRefusedError(Exception):
    """A test did not hold, or a place is not there; nothing is changed then (RFC 6902, section 5)."""


def apply_json_patch(document: dict, operations: list[dict]) -> dict:
    """The document with all operations done, in a copy."""
    result = copy.deepcopy(document)
    try:
        for operation in operations:
            *words, last = operation["path"].split("/")[1:]
            place = result
            for word in words:
                place = place[int(word) if isinstance(place, list) else word]
            _apply(place, int(last) if isinstance(place, list) else last, operation)
    except (LookupError, TypeError) as problem:
        raise PatchRefusedError from problem
    return result


def _apply(place, last, operation: dict) -> None:
    if operation["op"] != "add":
        held = place[last]
        if operation["op"] == "test" and held != operation["value"]:
            raise PatchRefusedError
    if operation["op"] == "remove":
        del place[last]
    elif operation["op"] != "test":
        place[last] = operation["value"]
