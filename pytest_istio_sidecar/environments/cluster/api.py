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
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

from pytest_istio_sidecar.environments.cluster import messages
from pytest_istio_sidecar.environments.cluster.api_problems import (
    ApiProblem,
    TokenExpired,
    refusal,
    unreachable,
)
from pytest_istio_sidecar.environments.cluster.exec_channels import (
    STDERR,
    STDOUT,
    exit_status,
    listen,
    websocket_error,
)
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.failure import Failure
from pytest_istio_sidecar.machine.command import CommandResult
from pytest_istio_sidecar.machine.state_file import Json

__all__ = ["ApiProblem", "Json", "KubernetesApi", "websocket_error"]

T = TypeVar("T")

REQUEST_SECONDS = 30.0
_PAUSE_SECONDS = 0.5

JSON_PATCH = "application/json-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"


class KubernetesApi:
    """Requests to one cluster, as one context of one kubeconfig file has it."""

    def __init__(self, *, kubeconfig: Path | None, context: str | None = None) -> None:
        self.kubeconfig = kubeconfig
        self.context = context
        self._local = threading.local()

    @property
    def server(self) -> str:
        """Address of the API server.

        Raises:
            EnvironmentProblem: the kubeconfig file cannot be used.
        """
        return str(self._client().configuration.host)

    @property
    def address(self) -> str:
        """Address of the API server as people may be shown it: without credentials in it."""
        parts = urlsplit(self.server)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")

    def current_context(self) -> str | None:
        """The context that was named, or is the kubeconfig's current one; None where it has none.

        Raises:
            EnvironmentProblem: the kubeconfig file cannot be used.
        """
        if self.context is not None:
            return self.context
        from kubernetes import config

        file = None if self.kubeconfig is None else str(self.kubeconfig)
        try:
            _, current = config.list_kube_config_contexts(config_file=file)  # type: ignore[no-untyped-call]
        except config.ConfigException as problem:
            raise EnvironmentProblem(
                messages.KUBECONFIG_UNUSABLE(kubeconfig=file or "the kubeconfig file", problem=problem)
            ) from None
        return str(current["name"]) if current else None

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
        text = self.persist(
            lambda seconds: self._once(
                method, path, body, query or {}, content_type=content_type, seconds=seconds
            ),
            timeout,
        )
        with contextlib.suppress(ValueError):
            answer = json.loads(text)
            if isinstance(answer, dict):
                return answer
        raise ApiProblem(messages.NO_JSON(method=method, path=path, text=text[:200]), said=text[:200])

    def text(self, path: str, query: Mapping[str, str], *, timeout: float = REQUEST_SECONDS) -> str:
        """GET what is plain text: a container's log.

        Raises:
            ApiProblem: as `get`.
        """
        return self.persist(
            lambda seconds: self._once("GET", path, None, query, accept="*/*", seconds=seconds), timeout
        )

    def persist(self, attempt: Callable[[float], T], timeout: float) -> T:
        """Try again what may pass, until the deadline; `attempt` is given the seconds that are left.

        Raises:
            ApiProblem: the last attempt's.
        """
        deadline = time.monotonic() + timeout
        renewed = False
        while True:
            try:
                return attempt(max(deadline - time.monotonic(), 0.1))
            except ApiProblem as problem:
                if isinstance(problem, TokenExpired) and not renewed:
                    # The kubeconfig file, or its credential plugin, may have a new token by now.
                    renewed = True
                    self._local.client = None
                    continue
                pause = _PAUSE_SECONDS if problem.retry_after is None else problem.retry_after
                if not problem.passing or time.monotonic() + pause >= deadline:
                    raise
            time.sleep(pause)

    def _once(
        self,
        method: str,
        path: str,
        body: object,
        query: Mapping[str, str],
        *,
        seconds: float,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> str:
        import urllib3

        client = self._client()
        headers = {"accept": accept, "content-type": content_type}
        headers |= _authorization(client)
        host = client.configuration.host
        url = f"{host}{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            response = client.rest_client.pool_manager.request(
                method,
                url,
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                timeout=urllib3.Timeout(seconds),
                retries=False,
                redirect=False,
            )
        except urllib3.exceptions.HTTPError as problem:
            raise self._unreachable(host, problem) from None
        text = str(response.data.decode(errors="replace"))
        if response.status >= 300:
            raise refusal(method=method, url=url, status=response.status, body=text, headers=response.headers)
        return text

    def _unreachable(self, host: str, problem: Exception) -> ApiProblem:
        config = str(self.kubeconfig or "KUBECONFIG, or ~/.kube/config")
        return unreachable(host, str(problem), kubeconfig=config)

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
                    messages.KUBECONFIG_UNUSABLE(
                        kubeconfig=f"{named}{file or 'the kubeconfig file'}", problem=problem
                    )
                ) from None
            self._local.client = client
        return client

    def exec(
        self, *, namespace: str, pod: str, container: str, argv: Sequence[str], timeout: float
    ) -> CommandResult:
        """Run a command in a container of a pod.

        A command whose connection breaks is run again while there is time: it must bear that.

        Returns:
            The result; exit status 127 where the container has no such program, None where the
            command went on when its time was up.

        Raises:
            ApiProblem: it could not be run, or its end was never told.
        """
        query = [("container", container), ("stdout", "1"), ("stderr", "1")]
        query += [("command", word) for word in argv]
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/exec?{urlencode(query)}"
        where = f"{namespace}/{pod} (container {container})"

        def failing(reason: str) -> Failure:
            return messages.COMMAND_NOT_RUN(place=where, reason=reason)

        def attempt(seconds: float) -> CommandResult:
            begin = time.monotonic()
            socket = self.open_websocket(path, failing, seconds)
            try:
                channels, status_object = listen(socket, begin + seconds, where)
            finally:
                with contextlib.suppress(OSError, websocket_error()):
                    socket.close(timeout=1)
            stderr = channels[STDERR]
            status, stderr = exit_status(status_object, stderr, where) if status_object else (None, stderr)
            return CommandResult(
                argv=tuple(argv),
                exit_status=status,
                stdout=channels[STDOUT],
                stderr=stderr,
                seconds=time.monotonic() - begin,
            )

        return self.persist(attempt, timeout)

    def open_websocket(self, path: str, failing: Callable[[str], Failure], seconds: float) -> Any:
        """A websocket to the API server; the client's own opens one without a deadline.

        No redirect is followed: websocket-client would repeat the token to wherever it leads.

        Args:
            failing: makes the message of a refusal, of its reason.

        Raises:
            ApiProblem: it was refused, or nobody answered.
        """
        from websocket import WebSocket, WebSocketBadStatusException

        client = self._client()
        settings = client.configuration
        tls = {
            "cert_reqs": ssl.CERT_REQUIRED if settings.verify_ssl else ssl.CERT_NONE,
            "ca_certs": settings.ssl_ca_cert,
            "certfile": settings.cert_file,
            "keyfile": settings.key_file,
            "server_hostname": settings.tls_server_name,
        }
        proxy = urlsplit(settings.proxy or "")
        socket = WebSocket(sslopt={key: value for key, value in tls.items() if value is not None})
        try:
            socket.connect(  # type: ignore[no-untyped-call]
                settings.host.replace("http", "ws", 1) + path,
                header=_authorization(client),
                subprotocols=["v4.channel.k8s.io"],
                suppress_origin=True,
                timeout=seconds,
                http_proxy_host=proxy.hostname,
                http_proxy_port=proxy.port,
                http_no_proxy=(settings.no_proxy or "").split(",") if settings.no_proxy else None,
                redirect_limit=0,
            )
        except WebSocketBadStatusException as problem:
            status, headers, body = problem.status_code, problem.resp_headers, problem.resp_body
        except (OSError, websocket_error()) as problem:
            if socket.status is None:
                raise self._unreachable(settings.host, problem) from None
            status, headers, body = socket.status, socket.headers, None
        else:
            if socket.status == HTTPStatus.SWITCHING_PROTOCOLS:
                return socket
            # A redirect that was not followed is no error to older releases of websocket-client.
            socket.shutdown()  # type: ignore[no-untyped-call]
            status, headers, body = socket.status, socket.headers, None
        refused = refusal(
            method="GET",
            url=f"{settings.host}{path}",
            status=status,
            body=(body or b"").decode(errors="replace"),
            headers=headers,
        )
        failure = failing(refused.said or refused.failure.summary)
        refused.failure = failure.with_evidence_of(refused.failure)
        raise refused

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
                raise EnvironmentProblem(
                    messages.WAITED(seconds=timeout, what=what, facts=[("last seen", seen)])
                )
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
    token = client.configuration.auth_settings().get("BearerToken")
    return {"authorization": str(token["value"])} if token and token.get("value") else {}
