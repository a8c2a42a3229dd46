"""What the Kubernetes API refuses or fails at, told so that it can be put right.

Knows the errors' shapes (v1.Status, RFC 9110 statuses) and what helps. Does not
know the client that met them. Invariant: a refusal for want of a right names the rule that is missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urljoin, urlsplit

from pytest_istio_sidecar.errors import EnvironmentProblem


class ApiProblem(EnvironmentProblem):
    """The Kubernetes API did not do what was asked.

    Attributes:
        status: of the HTTP response; 0 when there was none.
        reason: the server's word for it: "NotFound", "Conflict", "Forbidden" …; may be empty.
        said: the server's sentence.
        passing: whether asking again may help.
        retry_after: seconds the server asks to wait; None when it does not say.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        reason: str = "",
        said: str = "",
        passing: bool = False,
        retry_after: float | None = None,
    ) -> None:
        self.status = status
        self.reason = reason
        self.said = said
        self.passing = passing
        self.retry_after = retry_after
        super().__init__(message)


class ApiRefused(ApiProblem):
    """A right is missing (RBAC); the message has the rule to add."""


class AdmissionRefused(ApiProblem):
    """An admission controller or webhook does not allow the object."""


class TokenExpired(ApiProblem):
    """The API server does not take the kubeconfig's credentials (any more)."""


class ApiUnreachable(ApiProblem):
    """No answer: nothing listens there, no way there, or the connection broke."""


class ApiUntrusted(ApiProblem):
    """The server's certificate is not what the kubeconfig expects, or it does not take ours."""


class ApiRedirected(ApiProblem):
    """The answer points elsewhere, which an API server's never does; the credentials do not go there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The right that a request needs, as RBAC has it."""

    verb: str
    resource: str
    group: str
    namespace: str

    def lines(self) -> list[str]:
        """The YAML of a rule that grants it."""
        return [
            f'- apiGroups: ["{self.group}"]',
            f'  resources: ["{self.resource}"]',
            f'  verbs: ["{self.verb}"]',
        ]


_FORBIDDEN = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\S+) resource "(?P<resource>[^"]*)"'
    r' in API group "(?P<group>[^"]*)"(?: in the namespace "(?P<namespace>[^"]*)")?'
)
"""k8s.io/apiserver/pkg/endpoints/handlers/responsewriters/errors.go, forbiddenMessage; the same since 1.9."""

ADMINISTRATOR = "kubernetes-admin"
"""kubeadm's, and so kind's, who may do everything.

Since Kubernetes 1.29 by a role (kubeadm:cluster-admins), so that a server which restarts refuses it until
it has read its roles.
"""

_LONGEST_SERVER = 280
"""Characters of a scheme, a name (253 at most, RFC 1035) and a port."""

_PASSING = frozenset({429, 500, 502, 503, 504})

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def needed_rule(method: str, path: str) -> Rule:
    """The right that a request needs, from its method and path.

    Source: https://kubernetes.io/docs/reference/access-authn-authz/authorization/#determine-the-request-verb
    """
    parts = [unquote(part) for part in urlsplit(path).path.split("/") if part]
    group = "" if parts[:1] == ["api"] else "".join(parts[1:2])
    rest = parts[2:] if parts[:1] == ["api"] else parts[3:]
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    resource = "/".join([*rest[:1], *rest[2:3]])
    verb = _VERBS.get(method) or ("get" if len(rest) > 1 else "list")
    return Rule(verb=verb, resource=resource, group=group, namespace=namespace)


def refusal(
    *, method: str, url: str, status: int, body: str, headers: Mapping[str, str] | None = None
) -> ApiProblem:
    """Make a problem of an answer that is not a success."""
    if 300 <= status < 400:
        return _redirected(method, url, status, headers or {})
    answer = _status_object(body)
    said = str(answer.get("message") or " ".join(body.split())[:500] or "nothing")
    reason = str(answer.get("reason") or "")
    path = urlsplit(url).path
    facts = ["", f"  asked    {method} {url.partition('?')[0]}", f"  got      {status} {reason}".rstrip()]
    if status == 403:
        return _forbidden(method, path, said, facts)
    lines = [f"the API server refused {method} {path}: {said}", *facts]
    if status == 401:
        lines[0] = f"the API server does not take the credentials of this kubeconfig: {said}"
        lines += [
            "",
            "  cause    its token or certificate has expired, or is of another cluster",
            "  fix      log in again or export it again; it was read a second time before giving up",
        ]
        return TokenExpired("\n".join(lines), status=status, reason=reason, said=said)
    return ApiProblem(
        "\n".join(lines),
        status=status,
        reason=reason,
        said=said,
        # The container is not there (yet, or any more): telling that is better than asking until the end.
        passing=status in _PASSING and "container not found" not in said,
        retry_after=_seconds(headers or {}),
    )


def _redirected(method: str, url: str, status: int, headers: Mapping[str, str]) -> ApiRedirected:
    location = _header(headers, "location")
    target = _server_of(url, location) if location else "no address"
    said = f"the API server at {_server_of(url)} redirects to {target}, and no redirect is followed"
    lines = [
        said,
        "",
        f"  asked    {method} {urlsplit(url).path}",
        f"  got      {status}, a redirect",
        "",
        "  cause    what answers there is no API server but a proxy, a gateway or a page to log in",
        "  fix      name the API server itself as `server` in the kubeconfig, and with https://",
        "  note     the kubeconfig's credentials went to the first of the two and nowhere else",
    ]
    return ApiRedirected("\n".join(lines), status=status, said=said)


def _server_of(url: str, location: str = "") -> str:
    """Scheme, host and port of an address, or of one that it redirects to; what else it has may be secret."""
    try:
        parts = urlsplit(urljoin(url, location))
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return "an address that is none"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    # Anybody may have written it: bounded, and without what a terminal obeys.
    named = f"{parts.scheme}://{host}{port}".encode("unicode_escape").decode()
    return named[:_LONGEST_SERVER] if host else "no host"


def _forbidden(method: str, path: str, said: str, facts: list[str]) -> ApiProblem:
    match = _FORBIDDEN.search(said)
    if match is None and "forbidden:" in said:
        lines = [
            f"the cluster does not admit what was asked: {said}",
            *facts,
            "",
            "  cause    admission refuses the object: Pod Security, a policy or a webhook of the cluster",
            "  fix      a namespace that pod-security.kubernetes.io/enforce lets have it, or an exception",
        ]
        return AdmissionRefused("\n".join(lines), status=403, reason="Forbidden", said=said)
    user, rule = "the kubeconfig's user", needed_rule(method, path)
    if match is not None:
        user = match["user"]
        rule = Rule(
            verb=match["verb"],
            resource=match["resource"],
            group=match["group"],
            namespace=match["namespace"] or "",
        )
    where = f"namespace {rule.namespace}" if rule.namespace else "(cluster-wide)"
    role = f"a Role in the namespace {rule.namespace}" if rule.namespace else "a ClusterRole"
    missing = f'verb {rule.verb}, apiGroup "{rule.group}", resource {rule.resource}, {where}'
    lines = [
        f"{user} may not {rule.verb} {rule.resource}, {where}",
        *facts,
        "",
        f"  missing  {missing}",
        f"  fix      add to {role} that is bound to that user:",
        *(f"             {line}" for line in rule.lines()),
        "           manifests/rbac-*.yaml have all that each way of reading needs",
    ]
    return ApiRefused(
        "\n".join(lines), status=403, reason="Forbidden", said=said, passing=user == ADMINISTRATOR
    )


def unreachable(host: str, said: str, *, kubeconfig: str) -> ApiUnreachable | ApiUntrusted:
    """Make a problem of a connection that failed; what the failure says tells which."""
    facts = f"  got      {said}\n  config   {kubeconfig}\n\n"
    lower = said.lower()
    if "certificate" in lower or "tlsv1 alert" in lower or "wrong version number" in lower:
        return ApiUntrusted(
            f"no trust between this machine and the API server at {host}\n\n{facts}"
            "  cause    the kubeconfig is of another cluster, or of an earlier one at this address\n"
            "  fix      export it again (kind export kubeconfig), or correct its certificate-authority"
        )
    cause = (
        "nothing listens there: the cluster or its node is stopped, or was made anew on another port"
        if "refused" in lower
        else "there is no way to that address, the server is restarting, or the connection broke"
    )
    return ApiUnreachable(
        f"the API server at {host} cannot be reached\n\n{facts}"
        f"  cause    {cause}\n"
        "  fix      `kubectl version` with the same kubeconfig must answer first",
        passing=True,
    )


def _status_object(body: str) -> Mapping[str, object]:
    try:
        status = json.loads(body)
    except ValueError:
        return {}
    return status if isinstance(status, dict) else {}


def _seconds(headers: Mapping[str, str]) -> float | None:
    """Retry-After in seconds; its other form, a date, is not sent by Kubernetes."""
    value = _header(headers, "retry-after")
    return float(value) if value.isdecimal() else None


def _header(headers: Mapping[str, str], name: str) -> str:
    return next((value for key, value in headers.items() if key.lower() == name), "")
