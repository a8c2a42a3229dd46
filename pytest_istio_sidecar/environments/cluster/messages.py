"""What is said of clusters, their API and pods in them: IS70 to IS74.

Knows the words. Does not know when they are said.
"""

from __future__ import annotations

from pytest_istio_sidecar.failure import IN_THE_TEXT, Message

_OTHER_READER = "--istio-reader=exec with a privileged sidecar (--istio-make-privileged), or node"
_NODE = "change it at its source, or read from the node: --istio-reader=node"
_AGAIN = "run it again; the first error says what happened"

# The API.
KUBECONFIG_UNUSABLE = Message(
    "IS701",
    "{kubeconfig} cannot be used: {problem}",
    fix="name one: --istio-kubeconfig, or KUBECONFIG in the environment",
)
UNREACHABLE = Message(
    "IS702",
    "the API server at {host} cannot be reached",
    cause="{cause}",
    fix="`kubectl version` with the same kubeconfig must answer first",
)
UNTRUSTED = Message(
    "IS703",
    "no trust between this machine and the API server at {host}",
    cause="the kubeconfig is of another cluster, or of an earlier one at this address",
    fix="export it again (kind export kubeconfig), or correct its certificate-authority",
)
CREDENTIALS_REFUSED = Message(
    "IS704",
    "the API server does not take the credentials of this kubeconfig: {said}",
    cause="its token or certificate has expired, or is of another cluster",
    fix="log in again or export it again; it was read a second time before giving up",
)
RIGHT_MISSING = Message(
    "IS705",
    "{user} may not {verb} {resource}, {scope}",
    fix="add to {role} that is bound to that user:\n{rule}\nmanifests/rbac-*.yaml have all that each way of "
    "reading needs",
)
NOT_ADMITTED = Message(
    "IS706",
    "the cluster does not admit what was asked: {said}",
    cause="admission refuses the object: Pod Security, a policy or a webhook of the cluster",
    fix="a namespace that pod-security.kubernetes.io/enforce lets have it, or an exception",
)
REFUSED = Message("IS707", "the API server refused {method} {path}: {said}", help=IN_THE_TEXT)
NO_JSON = Message(
    "IS708",
    "{method} {path} was answered with no JSON: {text!r}",
    help="something else than an API server answers there: a proxy, a login page",
)
COMMAND_NOT_RUN = Message("IS709", "no command could be run in {place}: {reason}", help=IN_THE_TEXT)
NOT_FORWARDED = Message(
    "IS710",
    "port {port} of {pod} could not be reached by port-forward: {reason}",
    help="--istio-reader=exec asks Envoy from inside",
)
COMMAND_BROKE = Message(
    "IS711",
    "the connection to {place} broke while a command ran: {said}",
    help="it was tried again while there was time; look at the network, and at the node",
)
FORWARD_BROKE = Message(
    "IS712",
    "the connection to port {port} of {pod} broke: {problem}",
    help="it was tried again while there was time; look at the network, and at the node",
)
WAITED = Message("IS713", "waited {seconds:.0f} s for {what}", help="a slow cluster: --istio-timeout")

REDIRECTED = Message(
    "IS714",
    "the API server at {server} redirects to {target}, and no redirect is followed",
    cause="what answers there is no API server but a proxy, a gateway or a page to log in",
    fix="name the API server itself as `server` in the kubeconfig, and with https://",
    note="the kubeconfig's credentials went to the first of the two and nowhere else",
)

# Workloads and pods.
NO_WORKLOAD_NAME = Message(
    "IS721",
    "{text!r} names no workload: expected KIND/NAME with KIND one of {known}, or LABEL=VALUE",
    help=IN_THE_TEXT,
)
NO_WORKLOAD = Message(
    "IS722",
    "there is no {workload} in namespace {namespace}{context}",
    help="--istio-workload, --istio-namespace and --istio-context name another",
)
NO_READY_POD = Message(
    "IS723", "no Ready pod of {workload} in namespace {namespace}: {seen}", help="see why none is Ready"
)
PODS_REFUSED = Message(
    "IS724",
    "the pods of {workload} are refused: {reason}",
    cause="an admission controller (Pod Security, a policy, a webhook) refuses this pod",
    help="a namespace whose policy lets it have such pods, or an exception",
)
POD_HAS_GONE = Message(
    "IS725", "{pod} has gone while it was read: evicted, deleted or replaced", help="run it again"
)
NO_SIDECAR = Message(
    "IS726",
    "{pod} has no container istio-proxy: no sidecar was injected",
    fix="label the namespace istio-injection=enabled and restart the workload",
)
OTHER_RELEASE = Message(
    "IS727",
    "the sidecar of {pod} is of Istio {found}, and --istio-version={version} is asked for",
    help="leave --istio-version out, or name the pod's release",
)
HOST_NETWORK = Message(
    "IS728",
    "{pod} has its node's network (hostNetwork: true)",
    cause="Istio injects nothing into such a pod; what could be read are the node's rules",
    note="no rule of this pod was checked: it has none of its own",
    help="name another workload: this one has no sidecar",
)
PODS_NOT_FOUND = Message("IS729", "the pods of this run were not found: see the first error", help=_AGAIN)

# Ways to read.
NO_READER = Message(
    "IS731", "--istio-reader={reader} reads no pod of a cluster", help="auto, exec, node, debug or log"
)
NODE_NOT_HERE = Message(
    "IS732",
    "the node {node} of {pod} is no container of this machine's engine, so nothing can be run on it",
    fix="--istio-reader=exec (privileged sidecar) or --istio-reader=debug",
)
NO_IMAGE_TO_DEBUG = Message(
    "IS733",
    "{pod} has no sidecar whose image a debug container could use",
    help="no sidecar was injected: label the namespace and restart the workload",
)
NO_DEBUG_CONTAINER = Message(
    "IS734", "no debug container could be put into {pod}: {reason}", help=_OTHER_READER
)
OTHER_ADDRESS = Message(
    "IS735",
    "requests to {pod} go to its first address, which is not IPv{family}",
    help="a request of the other family is sent; this one is not judged",
)
NO_TRAFFIC = Message(
    "IS736", "no requests are sent to this pod; --istio-traffic allows them", help=IN_THE_TEXT
)
NOT_SENT = Message("IS737", "no request could be sent from {pod}", help="the command's own words say why")
CONNECTIONS_NOT_READ = Message(
    "IS738",
    "the connections of {pod} cannot be read, so no request can be judged",
    cause="the kernel shows no connections here (CONFIG_NF_CONNTRACK_PROCFS)",
    help="requests can be judged on a node whose kernel shows them; rules can be judged here",
)

_NOW = "read what the pod has now: --istio-reader=exec, node or debug"
NO_INIT_CONTAINER = Message(
    "IS756",
    "{pod} has no container that loads rules, so that no log of one can be read",
    cause="istio-cni made its rules, from the node, and logs there of all its pods; or none was injected",
    fix=_NOW,
)
NO_INIT_LOG = Message(
    "IS757",
    "the log of {container} in {pod} is gone",
    cause="the node removed the ended container, or rotated its log away, or it has logged nothing yet",
    fix=_NOW,
)
NO_RULES_LOGGED = Message(
    "IS758",
    "no rules stand in the log of {pod}'s istio-init ({command})",
    cause="Istio logs its rules of iptables, unless it was told to log less, and none of nftables",
    fix=_NOW,
)
LOG_NOT_READ = Message(
    "IS759",
    "{command} cannot be read as rules{where}: {reason}",
    fix=_NOW,
)
LOG_ONLY = Message(
    "IS739",
    "--istio-reader=log reads what istio-init logged, and has no {missing}",
    help="another reader has: exec, node or debug",
)

# Edits of a cluster that is not ours.
NO_DEPLOYMENT = Message(
    "IS741",
    "--istio-make-privileged edits Deployments, and {workload} is none",
    help="--istio-reader=node or debug needs no edit",
)
NOTHING_MERGED = Message(
    "IS742",
    "{workload} cannot be made privileged: Istio {version} merges no container of yours",
    fix="--set values.global.proxy.privileged=true at istioctl install, or --istio-reader=node",
)
OTHER_CLUSTER = Message(
    "IS743",
    "the changes were made in the cluster at {made}; its kubeconfig leads to {now} now",
    help="give the kubeconfig of that cluster its place again",
)
CHANGES_UNREADABLE = Message(
    "IS745",
    "what a run has changed is written down in a way that cannot be read: {problem}",
    fix="see in the file which workload it names, and put its istio-proxy back by hand",
)
NOT_PUT_BACK = Message(
    "IS744",
    "{name} could not be put back: {said}",
    help="`istio-sidecar clean` tries again; by hand: take the sidecar's securityContext out",
)
CHANGES_LEFT = Message(
    "IS746",
    "{problems}",
    help="`istio-sidecar clean` tries again, when what the server says is put right",
)
NOT_MADE_PRIVILEGED = Message(
    "IS747",
    "{workload} in namespace {namespace} cannot be made privileged: {reason}",
    cause="an admission controller refuses the edit",
    help=_NODE,
)
TAKEN_BACK = Message(
    "IS748",
    "{workload} was edited, but {what} does not show it: istio-proxy is not privileged",
    cause="a mutating webhook or a controller takes the edit back (a policy, GitOps, an operator)",
    fix=_NODE,
)
CHANGED_BY_OTHERS = Message(
    "IS749",
    "{workload} was changed by others {times} times while it was edited",
    help="see which controller changes it; read from the node: --istio-reader=node",
)
NOTHING_INJECTED = Message(
    "IS750", "{pod} has no istio-proxy: nothing was injected into it", help="is the namespace labelled?"
)
