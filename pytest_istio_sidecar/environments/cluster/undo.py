"""Changes to somebody's cluster, written down before they are made, so that they are put back.

Knows how to take back what was created and what was edited. Does not know why it was
changed. Invariant: only what this run changed is put back, and only where it still is as
this run left it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from pytest_istio_sidecar.environments.cluster import messages
from pytest_istio_sidecar.environments.cluster.api import JSON_PATCH, ApiProblem, Json, KubernetesApi
from pytest_istio_sidecar.environments.cluster.workload import SIDECAR, container_of
from pytest_istio_sidecar.environments.kind.httpbin import is_privileged, place_of
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.machine.lease import EDIT, Lease, leases

_FILE = "changes.json"


class Changes:
    """What one run has changed in one cluster."""

    def __init__(self, lease: Lease, api: KubernetesApi) -> None:
        self._lease = lease
        self._api = api
        self._held: list[Json] = []

    @property
    def directory(self) -> Path:
        """Where they are written down."""
        return self._lease.directory

    def will_create(self, path: str) -> None:
        """Write down an object that is created next."""
        self._note({"created": path})

    def will_edit(self, path: str, before: Json) -> None:
        """Write down a workload whose sidecar is made privileged next.

        Args:
            before: the workload as it is.
        """
        held = container_of({"spec": before["spec"]["template"]["spec"]})
        self._note({"edited": path, "added": held is None, "context": (held or {}).get("securityContext")})

    def take_back(self) -> list[str]:
        """Put everything back, the last change first; in words what was.

        Raises:
            EnvironmentProblem: the API server refused; what is left is still written down.
        """
        done = []
        while self._held:
            change = self._held[-1]
            done.append(_take_back(self._api, change))
            self._held.pop()
            self._write()
        self._lease.release()
        return done

    def _note(self, change: Json) -> None:
        if not self._held:
            self._lease.write()
            self.directory.mkdir(mode=0o700, exist_ok=True)
        self._held.append(change)
        self._write()

    def _write(self) -> None:
        kubeconfig = self._api.kubeconfig
        told = {
            # KUBECONFIG may name several files, or another one by the time this is read.
            "kubeconfig": os.environ.get("KUBECONFIG") if kubeconfig is None else str(kubeconfig.absolute()),
            "context": self._api.context,
            "server": self._api.server,
            "changes": self._held,
        }
        unfinished = self.directory / f"{_FILE}.new"
        unfinished.write_text(json.dumps(told))
        unfinished.rename(self.directory / _FILE)

    @classmethod
    def read(cls, lease: Lease) -> Changes:
        """What a run has written down.

        Raises:
            OSError, ValueError, KeyError: nothing was, or nothing that can be read.
            EnvironmentProblem: the kubeconfig file is gone, or leads to another cluster by now.
        """
        told = json.loads((lease.directory / _FILE).read_text())
        kubeconfig = told["kubeconfig"]
        api = KubernetesApi(
            kubeconfig=None if kubeconfig is None else Path(kubeconfig), context=told["context"]
        )
        if api.server != told["server"]:
            raise EnvironmentProblem(messages.OTHER_CLUSTER(made=told["server"], now=api.server))
        changes = cls(lease, api)
        changes._held = list(told["changes"])
        return changes


def take_back_of_ended_runs() -> tuple[list[str], list[str]]:
    """Put back what runs that have ended left changed; in words what was, and what could not be."""
    done: list[str] = []
    failed: list[str] = []
    for lease in leases():
        if lease.kind != EDIT or not lease.stale:
            continue
        try:
            done += Changes.read(lease).take_back()
        except (OSError, ValueError, KeyError):
            lease.release()  # nothing was changed yet
        except EnvironmentProblem as problem:
            note = (
                f"a run's changes there are not put back yet; they are written down in "
                f"{lease.directory / _FILE}; where that cluster is gone for good, remove {lease.path}"
            )
            failed.append(str(problem.failure._replace(note=note)))
    return done, failed


def _take_back(api: KubernetesApi, change: Json) -> str:
    path = change.get("created") or change["edited"]
    held = api.find(path)
    name = _name_of(path)
    if held is None:
        return f"{name} is gone already"
    if "created" in change:
        api.request("DELETE", path, query={"gracePeriodSeconds": "0"})
        return f"deleted {name}"
    operations = _operations(held, change)
    if not operations:
        return f"{name} has been changed by others since; it is left as it is"
    try:
        api.request("PATCH", path, body=operations, content_type=JSON_PATCH)
    except ApiProblem as problem:
        raise EnvironmentProblem(messages.NOT_PUT_BACK(name=name, said=problem.said)) from None
    return f"put {name} back"


def _name_of(path: str) -> str:
    """An object as messages name it: "deployments/httpbin in namespace demo"."""
    *_, namespace, kind, name = path.split("/")
    return f"{kind}/{name} in namespace {namespace}"


def _operations(held: Json, change: Json) -> Sequence[Json]:
    template = held["spec"]["template"]["spec"]
    at = place_of(template)
    if at is None or not is_privileged(container_of({"spec": template})):
        return []
    operations: list[Json] = [{"op": "test", "path": f"{at}/name", "value": SIDECAR}]
    if change["added"]:
        return [*operations, {"op": "remove", "path": at}]
    if change["context"] is None:
        return [*operations, {"op": "remove", "path": f"{at}/securityContext"}]
    return [*operations, {"op": "replace", "path": f"{at}/securityContext", "value": change["context"]}]
