"""What is said where a pod could not be read: IS5.

Knows the words. Does not know when they are said.
"""

from __future__ import annotations

from pytest_istio_sidecar.failure import IN_THE_TEXT, Message

_OTHER_READER = "read from the node, or with a debug container: --istio-reader=node or debug"
_OTHER_WAY = "run the command in the pod by hand; another reader may do: --istio-reader"
_NODE = "run the command on the node by hand; another reader may do: --istio-reader=exec or debug"

TABLES_NOT_READ = Message(
    "IS501",
    "cannot read the iptables tables of {pod}",
    cause="the command did not say",
    fix="run it in the pod by hand",
    note="no rule of this pod was checked",
)
OTHER_BACK_END = Message(
    "IS502",
    "the listing says it is of {said}, not {backend}",
    help="the pod's iptables-legacy-save or iptables-nft-save is not what its name says; read from the node",
)
NOTHING_TO_ASK_WITH = Message(
    "IS511",
    "no command can be run in {place}: there is no `id` in its image",
    cause="a distroless image has no shell, no sudo and no iptables to ask",
    fix=_OTHER_READER,
)
NO_SUDO = Message(
    "IS512",
    "cannot become root in {place}: there is no sudo in its image, and its user is {user}",
    fix=_OTHER_READER,
)
NOT_ROOT = Message("IS513", "cannot become root in {place}", cause="sudo did not say", help=_OTHER_READER)
POD_HAS_ENDED = Message(
    "IS521", "the pod's process has ended meanwhile", help="run it again; see why the pod was replaced"
)
PROCESS_NOT_TOLD = Message("IS522", "crictl on the node does not tell the process of {pod}", help=_NODE)
CONTAINER_NOT_RUNNING = Message(
    "IS523",
    "the container {container} of {pod} has no process: it is not running",
    help="see in the pod's status why it ended",
)
ADDRESSES_NOT_READ = Message("IS531", "cannot read the addresses of {pod}", help=_OTHER_WAY)
SOCKETS_NOT_READ = Message("IS532", "cannot read the sockets of {pod}", help=_OTHER_WAY)
POLICY_ROUTES_NOT_READ = Message("IS533", "cannot read the policy routes of {pod}", help=_OTHER_WAY)
NO_REQUEST_KIND = Message("IS541", "request {kind!r}: expected one of {known}", help=IN_THE_TEXT)
NO_REQUEST_NUMBER = Message(
    "IS542",
    "{field} {value!r} of a request: expected a whole number from {lowest} to {highest}",
    help=IN_THE_TEXT,
)
NO_REQUEST_FAMILY = Message("IS543", "family {family!r} of a request: expected 4 or 6", help=IN_THE_TEXT)
LISTENERS_NOT_READ = Message(
    "IS534",
    "cannot read Envoy's listeners of {pod}",
    cause="{cause}",
    note="no listener of this pod was checked",
    help="look whether the sidecar is ready, and whether this user may exec or port-forward",
)
