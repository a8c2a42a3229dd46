"""What is said of this machine: IS8.

Knows the words. Does not know when they are said.
"""

from __future__ import annotations

from pytest_istio_sidecar.failure import Message

STATE_NOT_READ = Message(
    "IS821", "{file} cannot be read: {problem}", help="run it again: it is of another run"
)
STATE_NO_JSON = Message("IS822", "{file} is no JSON: {problem}", help="run it again: it is of another run")
STATE_NO_OBJECT = Message(
    "IS823", "{state} is {value}, and should be an object", help="run it again: it is of another run"
)
STATE_WITHOUT = Message("IS824", "{state} has no {key!r}", help="run it again: it is of another run")
STATE_OF_OTHER_TYPE = Message(
    "IS825",
    "{key!r} of {state} is {value}, and should be of type {type}",
    help="run it again: it is of another run",
)
PLACE_NOT_PRIVATE = Message(
    "IS811",
    "{place} belongs to another user or is open to others; nothing is kept there",
    fix="remove it, or: chmod 700 {place}",
)
OWNER_HAS_ENDED = Message(
    "IS812",
    "process {pid}, for which the {kind} environment is, has ended",
    help="give the id of a process that runs as long as the environment is wanted",
)
LEASES_TAKEN = Message(
    "IS813",
    "another process holds {folder} for more than {seconds:.0f} s",
    help="find it (fuser on that folder) and end it",
)
NOT_ENDED = Message(
    "IS814",
    "process {pid} did not end {seconds:g} s after it was killed",
    help="the kernel keeps it: look at its state in /proc/PID/status",
)
GIVEN_NOT_READ = Message(
    "IS826", "the file {file} cannot be opened: {problem}", help="name a text file that can be read"
)
