"""The Kubernetes API, as far as it is needed, in plain JSON.

The one module that imports the official client: it reads kubeconfig files, credentials
and certificates; requests and their answers are JSON, as the client's typed models
refuse fields of other versions. Knows requests, exec and waiting. Does not know what is
read. Invariant: an answer is the server's; what prevented one is an `ApiProblem`.

Threads: each has a client of its own, as exec and requests on a shared one disturb
each other (kubernetes-client/python#928).
"""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.readers.command import NOT_FOUND, CommandResult

T = TypeVar("T")
Json = dict[str, Any]

REQUEST_SECONDS = 30.0
_PAUSE_SECONDS = 0.5
_TRANSIENT = frozenset({429, 500, 502, 503, 504})
_STDOUT, _STDERR, _STATUS = 1, 2, 3
"""Channels of the exec protocol v4.channel.k8s.io (k8s.io/kubernetes, remotecommand/constants.go)."""

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"


class ApiProblem(EnvironmentProblem):
    """The API server did not do what it was asked for.

    Attributes:
        status: of the HTTP response; 0 when there was none.
        reason: the server's word for it: "NotFound", "Conflict", "Forbidden" …
        said: the server's sentence.
    """

    def __init__(self, message: str, *, status: int = 0, reason: str = "", said: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.said = said


class _NoAnswer(ApiProblem):
    """No connection, or one that broke: what may pass when the API server restarts."""


class KubernetesApi:
    """Requests to one cluster, as one context of one kubeconfig file has it."""

    def __init__(self, *, kubeconfig: Path | None, context: str | None = None) -> None:
        self.kubeconfig = kubeconfig
        self.context = context
        self._local = threading.local()

    def get(self, path: str, *, timeout: float = REQUEST_SECONDS, **query: str) -> Json:
        """GET a path such as "/api/v1/namespaces/default/pods".

        Raises:
            ApiProblem: it is not there, is not allowed, or nobody answered in time.
        """
        return self.request("GET", path, query=query, timeout=timeout)

    def find(self, path: str, **query: str) -> Json | None:
        """GET a path; None where there is nothing."""
        try:
            return self.request("GET", path, query=query)
        except ApiProblem as problem:
            if problem.status == 404:
                return None
            raise

    def request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        timeout: float = REQUEST_SECONDS,
    ) -> Json:
        """Make a request; refused connections, 429 and 5xx are tried again until the deadline.

        Raises:
            ApiProblem: the answer is an error, or there was none.
        """
        deadline = time.monotonic() + timeout
        renewed = False
        while True:
            left = deadline - time.monotonic()
            try:
                status, headers, text = self._once(method, path, body, query or {}, content_type, left)
            except _NoAnswer:
                if time.monotonic() + _PAUSE_SECONDS > deadline:
                    raise
                time.sleep(_PAUSE_SECONDS)
                continue
            if status == 401 and not renewed:
                # The token may have expired: the kubeconfig file or its credential plugin has a new one.
                renewed = True
                self._local.client = None
                continue
            pause = _pause(headers)
            if status in _TRANSIENT and time.monotonic() + pause < deadline:
                time.sleep(pause)
                continue
            if status >= 300:
                raise _refused(method, path, status, text)
            with contextlib.suppress(ValueError):
                answer = json.loads(text)
                if isinstance(answer, dict):
                    return answer
            raise ApiProblem(f"{method} {path} was answered with no JSON: {text[:200]!r}", status=status)

    def _once(
        self,
        method: str,
        path: str,
        body: object,
        query: Mapping[str, str],
        content_type: str,
        seconds: float,
    ) -> tuple[int, Mapping[str, str], str]:
        import urllib3

        client = self._client()
        headers = {"accept": "application/json", "content-type": content_type}
        headers |= _authorization(client)
        url = f"{client.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            response = client.rest_client.pool_manager.request(
                method,
                url,
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                timeout=urllib3.Timeout(max(seconds, 0.1)),
                retries=False,
            )
        except urllib3.exceptions.SSLError as problem:
            raise ApiProblem(_unreachable(client.configuration.host, problem, self.kubeconfig)) from None
        except urllib3.exceptions.HTTPError as problem:
            raise _NoAnswer(_unreachable(client.configuration.host, problem, self.kubeconfig)) from None
        return response.status, response.headers, response.data.decode(errors="replace")

    def _client(self) -> Any:
        client = getattr(self._local, "client", None)
        if client is None:
            from kubernetes import config

            file = None if self.kubeconfig is None else str(self.kubeconfig)
            try:
                client = config.new_client_from_config(  # type: ignore[no-untyped-call]
                    config_file=file, context=self.context, persist_config=False
                )
            except config.ConfigException as problem:
                named = f"context {self.context} of " if self.context else ""
                raise EnvironmentProblem(
                    f"{named}{file or 'the kubeconfig file'} cannot be used: {problem}\n\n"
                    "  fix      name one: --istio-kubeconfig, or KUBECONFIG in the environment"
                ) from None
            self._local.client = client
        return client

    def exec(
        self, *, namespace: str, pod: str, container: str, argv: Sequence[str], timeout: float
    ) -> CommandResult:
        """Run a command in a container of a pod.

        Returns:
            The result; exit status 127 where the container has no such program, None where the
            command went on when its time was up.

        Raises:
            ApiProblem: it could not be run, or its end was never told.
        """
        from kubernetes.stream import ws_client

        client = self._client()
        query = [("container", container), ("stdout", "1"), ("stderr", "1")]
        query += [("command", word) for word in argv]
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/exec"
        url = f"{client.configuration.host}{path}?{urlencode(query)}"
        where = f"{namespace}/{pod} (container {container})"
        begin = time.monotonic()
        try:
            socket = ws_client.create_websocket(  # type: ignore[no-untyped-call]
                client.configuration, url.replace("http", "ws", 1), _authorization(client)
            )
        except (OSError, ssl.SSLError, _websocket_error()) as problem:
            raise _exec_refused(problem, path, where) from None
        try:
            channels, told = _listen(socket, begin + timeout, where)
        finally:
            with contextlib.suppress(OSError, _websocket_error()):
                socket.close(timeout=1)
        stdout, stderr = channels[_STDOUT], channels[_STDERR]
        status, stderr = _exit_status(told, stderr, where) if told else (None, stderr)
        return CommandResult(
            argv=tuple(argv),
            exit_status=status,
            stdout=stdout,
            stderr=stderr,
            seconds=time.monotonic() - begin,
        )

    def wait(self, what: str, probe: Callable[[], tuple[T | None, str]], *, timeout: float) -> T:
        """Ask again and again until there is an answer.

        Args:
            what: for the message: "istiod to be ready".
            probe: returns the answer or None, and what it saw.

        Raises:
            EnvironmentProblem: there was none until the deadline; the message shows what was seen last.
        """
        begin = time.monotonic()
        while True:
            answer, seen = probe()
            if answer is not None:
                return answer
            if time.monotonic() - begin > timeout:
                raise EnvironmentProblem(f"waited {timeout:.0f} s for {what}\n\n  last seen {seen}")
            time.sleep(_PAUSE_SECONDS)

    def events(self, namespace: str, names: Sequence[str]) -> list[str]:
        """What happened to objects of these names, warnings only, oldest first."""
        try:
            items = self.get(f"/api/v1/namespaces/{namespace}/events").get("items", [])
        except ApiProblem as problem:
            return [f"(events could not be read: {problem.said or problem})"]
        return [
            f"{event['involvedObject'].get('name')}: {event.get('reason')}: {event.get('message')}"
            for event in sorted(items, key=lambda event: str(event.get("lastTimestamp") or ""))
            if event.get("type") == "Warning"
            and any(str(event["involvedObject"].get("name", "")).startswith(name) for name in names)
        ]


def _authorization(client: Any) -> dict[str, str]:
    """The header that says who asks; none where a client certificate does."""
    found = client.configuration.auth_settings().get("BearerToken")
    return {"authorization": str(found["value"])} if found and found.get("value") else {}


def _pause(headers: Mapping[str, str]) -> float:
    told = headers.get("retry-after", "")
    return float(told) if told.isdecimal() else _PAUSE_SECONDS


def _unreachable(host: str, problem: Exception, kubeconfig: Path | None) -> str:
    return (
        f"the API server at {host} cannot be reached\n\n"
        f"  got      {problem}\n"
        f"  config   {kubeconfig or 'KUBECONFIG, or ~/.kube/config'}"
    )


def _refused(method: str, path: str, status: int, text: str) -> ApiProblem:
    try:
        told = json.loads(text)
        said, reason = str(told.get("message", text)), str(told.get("reason", ""))
    except (ValueError, AttributeError):
        said, reason = text[:500], ""
    lines = [f"the API server refused {method} {path.partition('?')[0]}: {said}"]
    if status == 403 and "cannot " in said:
        lines += ["", f"  missing  {missing_rule(method, path)}", "  fix      see manifests/rbac-*.yaml"]
    if status == 401:
        lines += ["", "  cause    the credentials of this context are not valid, or no longer"]
    return ApiProblem("\n".join(lines), status=status, reason=reason, said=said)


_VERBS = {"GET": "get", "POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}


def missing_rule(method: str, path: str) -> str:
    """The RBAC rule that a request needs, from its path (API concepts, kubernetes.io)."""
    words = path.strip("/").split("/")
    group = "" if words[0] == "api" else words[1]
    words = words[2:] if words[0] == "api" else words[3:]
    namespace = "(cluster-wide)"
    if len(words) > 2 and words[0] == "namespaces":
        namespace, words = words[1], words[2:]
    resource = words[0] + (f"/{words[2]}" if len(words) > 2 else "")
    verb = _VERBS.get(method, method.lower())
    if verb == "get" and len(words) == 1:
        verb = "list"
    return f'verb {verb}, apiGroup "{group}", resource {resource}, namespace {namespace}'


def _websocket_error() -> type[Exception]:
    from websocket import WebSocketException

    return WebSocketException


def _exec_refused(problem: Exception, path: str, where: str) -> ApiProblem:
    status = int(getattr(problem, "status_code", 0) or 0)
    body = getattr(problem, "resp_body", None)
    said = str(problem)
    if isinstance(body, bytes):
        with contextlib.suppress(ValueError, AttributeError):
            said = str(json.loads(body)["message"])
    lines = [f"no command could be run in {where}: {said}"]
    if status == 403:
        lines += [
            "",
            f"  missing  {missing_rule('POST', path)} (Kubernetes before 1.35 asks for verb get)",
            "  fix      see manifests/rbac-*.yaml",
        ]
    return ApiProblem("\n".join(lines), status=status, said=said)


def _listen(socket: Any, deadline: float, where: str) -> tuple[dict[int, str], Json | None]:
    """Everything a command says on its channels; its status, None when the deadline came first."""
    from websocket import WebSocketTimeoutException

    heard = {_STDOUT: bytearray(), _STDERR: bytearray(), _STATUS: bytearray()}
    told: Json | None = None
    while True:
        socket.settimeout(max(deadline - time.monotonic(), 0.05))
        try:
            _, frame = socket.recv_data()
        except (WebSocketTimeoutException, TimeoutError):
            break
        except (OSError, _websocket_error()) as problem:
            raise ApiProblem(f"the connection to {where} broke while a command ran: {problem}") from None
        if not frame or frame[0] not in heard:
            if heard[_STATUS]:
                break
            if not frame:
                raise ApiProblem(f"the connection to {where} was closed before the command's end was told")
            continue
        heard[frame[0]] += frame[1:]
        if frame[0] == _STATUS:
            with contextlib.suppress(ValueError):
                told = json.loads(heard[_STATUS])
                break
    return {channel: bytes(data).decode(errors="backslashreplace") for channel, data in heard.items()}, told


def _exit_status(told: Json, stderr: str, where: str) -> tuple[int, str]:
    """The exit status out of the v1.Status on the status channel (KEP: remotecommand v4)."""
    if told.get("status") == "Success":
        return 0, stderr
    message = str(told.get("message", ""))
    if any(text in message for text in ("executable file not found", "no such file or directory")):
        return NOT_FOUND, stderr or message
    for cause in (told.get("details") or {}).get("causes", []):
        if cause.get("reason") == "ExitCode":
            return int(cause["message"]), stderr
    raise ApiProblem(f"no command could be run in {where}: {message}", said=message)
