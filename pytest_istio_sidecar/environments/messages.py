"""What is said of listings in files, and of rules that are no sidecar's: IS60.

Knows the words. Does not know when they are said.
"""

from __future__ import annotations

from pytest_istio_sidecar.failure import IN_THE_TEXT, Message

NOT_SERVED = Message(
    "IS601",
    "the file environment has listings only, {missing}",
    help="use an environment with a pod: embedded, kind or existing",
)
LISTING_TWICE = Message("IS602", "a listing is named twice", help="name each once")
INPUT_TWICE = Message("IS603", "standard input can be one listing only", help="name files for the others")
SAME_FAMILY = Message(
    "IS604",
    "two listings are of the same family (IPv{family}) and back end ({backend}): "
    "{first} and {second} both have table {table}",
    fix="{fix}",
)
ONE_BACK_END = "give each table once, and 'ip6:' in front of what ip6tables printed"
TWO_BACK_ENDS = (
    "where they are of two back ends, put 'legacy:' or 'nft:' in front of the file's name, and 'ip6:' of "
    "what ip6tables printed; where they are of one, give each table once"
)
BACK_END_NOT_SAID = Message(
    "IS612",
    "{file} does not say of which back end it is, and others are of both",
    fix="put 'legacy:' or 'nft:' in front of the file's name",
)
NO_FILE = Message(
    "IS605", "{text!r} names no file; write it as [ip6:][legacy:|nft:|native:]FILE", help=IN_THE_TEXT
)
OTHER_WRITER = Message(
    "IS606",
    "{source} was written by {writer}, but is given as {backend}",
    help="leave out what stands in front of the file's name, or name the other file",
)
NOT_A_FILE = Message("IS607", "{file} is not a file", help="name the file with the listing")
FILE_NOT_READ = Message(
    "IS608", "cannot read {source}: {problem}", help="name a file that this user may read"
)
FILE_TOO_LONG = Message(
    "IS609",
    "longer than {limit} MiB: no listing of a pod's rules",
    help="look at what the file is",
)
NOT_UTF8 = Message(
    "IS610",
    "{what}, not text in UTF-8",
    fix="give what iptables-save or iptables -L prints, as text in UTF-8; in PowerShell\n"
    "… | Out-File -Encoding utf8 FILE",
)
NO_SIDECAR_RULES = Message(
    "IS611",
    "{pod} has no sidecar's iptables rules",
    cause="{cause}",
    note="no rule of this pod was checked",
    help="what captures the pod's traffic instead is not judged",
)
NO_EVIDENCE = Message(
    "IS615",
    "{folder} is no folder with what was read of a pod{inside}",
    help="name one that istio-sidecar read, a run of the suite or one of its failing tests wrote",
)
FOLDER_ALONE = Message(
    "IS616",
    "{folder} is a folder, which has all rules of a pod: give it alone, and without a prefix",
    help=IN_THE_TEXT,
)
