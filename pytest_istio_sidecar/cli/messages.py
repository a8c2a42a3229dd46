"""What is said of arguments of the command line that cannot be meant: IS95.

Knows the words. Does not know when they are said.
"""

from __future__ import annotations

from pytest_istio_sidecar.failure import IN_THE_TEXT, Message

UNKNOWN_ARGUMENTS = Message("IS951", "unknown arguments: {arguments}", help="--help has those of the command")
OPTION_OF_RELEASE = Message(
    "IS952", "--option is what a release is told: give --istio-version too", help=IN_THE_TEXT
)
GUESS_ALONE = Message(
    "IS953", "--guess looks for the options itself; leave --option and --exact out", help=IN_THE_TEXT
)
INPUT_FOR_TWO = Message(
    "IS954",
    "standard input can be the rules or the packets, not both",
    help="name a file for one of them",
)
ONE_PACKET = Message(
    "IS955",
    "--svg and --source are for one packet, and --packets may give many",
    help="give the packet with --inbound or --outbound",
)
NOT_DRAWN = Message("IS956", "--svg {path}: {problem}", help="name a file that can be written")
NO_LISTING_OF_FAMILY = Message(
    "IS957",
    "the packet is IPv{family}, but no listing given is; name one as {form}",
    help=IN_THE_TEXT,
)
NO_SOCKET_OF_OTHERS = Message(
    "IS959",
    "--uid and --gid are for --outbound: a packet from elsewhere has no socket here",
    help=IN_THE_TEXT,
)
INTERFACE_WITHOUT_ADDRESS = Message(
    "IS960",
    "interface {interface} has no IPv{family} address; give one by --interface",
    help=IN_THE_TEXT,
)
POD_WITHOUT_ADDRESS = Message(
    "IS961",
    "the pod has no IPv{family} address to send from; give one by --interface",
    help=IN_THE_TEXT,
)
NO_INBOUND = Message(
    "IS962",
    "--inbound {text}: {problem}; write it as 80, https, udp/53, icmp or proto/47",
    help=IN_THE_TEXT,
)
NO_OUTBOUND = Message(
    "IS963",
    "--outbound {text}: {problem}; write it as 10.1.2.3:443 or [2001:db8::1]:443",
    help=IN_THE_TEXT,
)
PACKETS_NOT_READ = Message(
    "IS964", "--packets {name}: {problem}", help="name a file of UTF-8 text, one JSON object a line"
)
NO_PACKET = Message(
    "IS965", "--packets {name}, line {number}: {problem}", help="one JSON object with Packet's fields a line"
)
NOT_AN_OBJECT = Message("IS966", "expected a JSON object with Packet's fields", help=IN_THE_TEXT)
NO_IDENTITY = Message("IS967", "{text!r}: expected a number or {nobody}", help=IN_THE_TEXT)
NO_COUNT = Message("IS968", "{text!r}: expected a number, at least 1", help=IN_THE_TEXT)
PACKETS_NOT_NAMED = Message("IS969", "--packets names no file; - is standard input", help=IN_THE_TEXT)
NO_PACKETS = Message(
    "IS970", "--packets {name}: there is no packet in it", help="one JSON object with Packet's fields a line"
)
NOT_ITS_FIELDS = Message("IS971", "{problem}; Packet's fields are {known}", help=IN_THE_TEXT)
NOT_PRINTED = Message(
    "IS972", "standard output cannot be written: {problem}", help="make room, or send it elsewhere"
)
NO_RELEASE_NAMED = Message(
    "IS975",
    "nothing says what to compare with: --istio-version names the release, --guess finds it",
    help=IN_THE_TEXT,
)
