"""Changes to somebody's cluster, written down before they are made, so that they are put back.

Knows how to take back what was created and what was edited. Does not know why it was
changed. Invariant: only the fields that this run set are put back, each only where it still has
the value that this run gave it; what somebody else made of one stays, and is told.
"""

from __future__ import annotations

import copy
import json
import os
import time
from pathlib import Path

from pytest_istio_sidecar.environments.cluster.api import JSON_PATCH, ApiProblem, Json, KubernetesApi
from pytest_istio_sidecar.environments.cluster.privileged import ADDED, PRIVILEGED, place_of
from pytest_istio_sidecar.environments.cluster.workload import SIDECAR, container_of
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.machine.lease import EDIT, Lease, leases
from pytest_istio_sidecar.machine.state_file import StateUnreadable, read_state, require, write_state

_FILE = "changes.json"
_TRIES = 10
"""Puttings back of a Deployment that others, or its own status, change at the same time."""
_PAUSE_SECONDS = 0.2

_DEFAULTS = {
    "resources": {},
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
}
"""What the API server adds to a container (k8s.io/kubernetes, pkg/apis/core/v1/defaults.go)."""


_SHAPE = {"kubeconfig": str | None, "context": str | None, "server": str, "changes": list}
_EDIT = {
    "edited": str,
    "uid": str | None,
    "generation": int | None,
    "added": dict | None,
    "fields": dict,
}


class Changes:
    """What one run has changed in one cluster."""

    def __init__(self, lease: Lease, api: KubernetesApi) -> None:
        self._lease = lease
        self._api = api
        self._changes: list[Json] = []

    @property
    def directory(self) -> Path:
        """Where they are written down."""
        return self._lease.directory

    def will_create(self, path: str) -> None:
        """Write down an object that is created next."""
        self._note({"created": path})

    def will_edit(self, path: str, before: Json) -> None:
        """Write down which fields of a workload are set next, to make its sidecar privileged.

        Told a second time, as when the edit is tried again, it keeps what it knows of fields that are
        set by now: this run may have set them, and the answer been lost.

        Args:
            before: the workload as it is.
        """
        edit = _edit(path, before)
        earlier = next((change for change in self._changes if change.get("edited") == path), None)
        if earlier is not None and earlier["uid"] == edit["uid"]:
            earlier["fields"] |= edit["fields"]
            earlier["added"] = edit["added"] or earlier["added"]
            self._write()
        elif edit["fields"]:
            self._note(edit)

    def take_back(self) -> list[str]:
        """Put everything back, the last change first; in words what was.

        Raises:
            EnvironmentProblem: the API server refused some of it; that is still written down.
        """
        done: list[str] = []
        problems: list[str] = []
        for change in reversed(self._changes.copy()):
            try:
                done += _take_back(self._api, change)
            except EnvironmentProblem as problem:
                problems.append(str(problem))
            else:
                self._changes.remove(change)
                self._write()
        if problems:
            raise EnvironmentProblem("\n".join([*done, *problems]))
        self._lease.release()
        return done

    def _note(self, change: Json) -> None:
        if not self._changes:
            self._lease.write()
            self.directory.mkdir(mode=0o700, exist_ok=True)
        self._changes.append(change)
        self._write()

    def _write(self) -> None:
        kubeconfig = self._api.kubeconfig
        facts = {
            # KUBECONFIG may name several files, or another one by the time this is read.
            "kubeconfig": os.environ.get("KUBECONFIG") if kubeconfig is None else str(kubeconfig.absolute()),
            "context": self._api.context,
            "server": self._api.server,
            "changes": self._changes,
        }
        write_state(self.directory / _FILE, facts)

    @classmethod
    def read(cls, lease: Lease) -> Changes:
        """What a run has written down.

        Raises:
            EnvironmentProblem: it cannot be read, or the kubeconfig file is gone, or leads to another
                cluster by now.
        """
        try:
            written = read_state(lease.directory / _FILE, _SHAPE)
            edits = [_read(change) for change in written["changes"]]
        except StateUnreadable as problem:
            raise EnvironmentProblem(
                f"what a run has changed is written down in a way that cannot be read: {problem}\n"
                f"  fix      see in the file which workload it names, and put its {SIDECAR} back by hand"
            ) from None
        kubeconfig, server = written["kubeconfig"], written["server"]
        api = KubernetesApi(
            kubeconfig=None if kubeconfig is None else Path(kubeconfig), context=written["context"]
        )
        if api.server != server:
            raise EnvironmentProblem(
                f"the changes were made in the cluster at {server}; its kubeconfig leads to {api.server} now"
            )
        changes = cls(lease, api)
        changes._changes = edits
        return changes


def take_back(lease: Lease) -> list[str]:
    """Put back what the run of a lease has changed; in words what was.

    Raises:
        EnvironmentProblem: not all of it could be; that is still written down.
    """
    if not (lease.directory / _FILE).exists():
        lease.release()  # nothing was changed yet
        return []
    return Changes.read(lease).take_back()


def take_back_of_ended_runs() -> tuple[list[str], list[str]]:
    """Put back what runs that have ended left changed; in words what was, and what could not be."""
    done: list[str] = []
    failed: list[str] = []
    for lease in leases():
        if lease.kind != EDIT or not lease.stale:
            continue
        try:
            done += take_back(lease)
        except EnvironmentProblem as problem:
            failed.append(
                f"{problem}\n  note     a run's changes there are not put back yet; they are written down in "
                f"{lease.directory / _FILE}; where that cluster is gone for good, remove {lease.path}"
            )
    return done, failed


def _edit(path: str, before: Json) -> Json:
    """The record of an edit that is made next: for each field what it is given, and what it had, if any."""
    container = container_of({"spec": before["spec"]["template"]["spec"]})
    return {
        "edited": path,
        "uid": before["metadata"].get("uid"),
        "generation": before["metadata"].get("generation"),
        "added": ADDED if container is None else None,
        "fields": _fields((container or {}).get("securityContext")),
    }


def _fields(context: Json | None) -> Json:
    """What the edit sets in a container that has this security context."""
    fields: Json = {"securityContext": {"set": {}}} if context is None else {}
    for name, value in PRIVILEGED.items():
        if context is None or name not in context:
            fields[f"securityContext.{name}"] = {"set": value}
        elif context[name] != value:
            fields[f"securityContext.{name}"] = {"set": value, "before": context[name]}
    return fields


def _read(written: object) -> Json:
    """A change as it was written down.

    Raises:
        StateUnreadable: it is none.
    """
    change = require(written, {}, of="a change")
    if "created" in change:
        return require(change, {"created": str}, of="a change")
    if "context" in change:
        # As it was written before single fields were.
        require(change, {"edited": str, "context": dict | None, "added": bool}, of="an edit")
        added = ADDED if change["added"] else None
        fields = _fields(change["context"])
        return {"edited": change["edited"], "uid": None, "generation": None, "added": added, "fields": fields}
    require(change, _EDIT, of="an edit")
    for name, field in change["fields"].items():
        require(field, {"set": object}, of=name)
    return change


def _take_back(api: KubernetesApi, change: Json) -> list[str]:
    if "edited" in change:
        return _put_back(api, change)
    path = change["created"]
    name = _name_of(path)
    # Who may not make one may not delete one either.
    if api.find(path) is None:
        return [f"{name} is gone already"]
    api.request("DELETE", path, query={"gracePeriodSeconds": "0"})
    return [f"deleted {name}"]


def _put_back(api: KubernetesApi, edit: Json) -> list[str]:
    path = edit["edited"]
    name = _name_of(path)
    said = ""
    for _ in range(_TRIES):
        workload = api.find(path)
        if workload is None:
            return [f"{name} is gone already"]
        metadata = workload["metadata"]
        if edit["uid"] is not None and metadata.get("uid") != edit["uid"]:
            return [f"{name} was deleted and made anew by somebody else since; it is left as it is"]
        operations, left = _undo(workload, edit)
        sentences = [f"{name}: {sentence}; left as it is" for sentence in left]
        if not operations:
            return sentences or [f"{name} is as it was already"]
        version = {"op": "test", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]}
        try:
            put = api.request("PATCH", path, body=[version, *operations], content_type=JSON_PATCH)
        except ApiProblem as problem:
            said = problem.said or str(problem)
            # How a failed test of a patch is told differs between releases: 409, 422, and by their words.
            if problem.status in (404, 409, 422):
                time.sleep(_PAUSE_SECONDS)
                continue
            break
        if _undo(put, edit)[0]:
            said = "the API server took it, and shows the workload unchanged"
            break
        if left:
            return [*sentences, f"put {name} back, but for that"]
        # The edit itself made one generation; the others are somebody else's.
        others = edit["generation"] is not None and metadata.get("generation", 0) > edit["generation"] + 1
        return [f"put {name} back" + ("; what somebody else has changed in it since stays" if others else "")]
    raise EnvironmentProblem(f"{name} could not be put back: {said}")


def _name_of(path: str) -> str:
    """An object as messages name it: "deployments/httpbin in namespace demo"."""
    *_, namespace, kind, name = path.split("/")
    return f"{kind}/{name} in namespace {namespace}"


def _undo(workload: Json, edit: Json) -> tuple[list[Json], list[str]]:
    """A patch of what still is as the run set it; and in words what somebody else has made of the rest."""
    template = workload["spec"]["template"]["spec"]
    at, now = place_of(template), copy.deepcopy(container_of({"spec": template}))
    if at is None or now is None:
        return [], [] if edit["added"] else [f"somebody else has taken out container {SIDECAR}"]
    named = {"op": "test", "path": f"{at}/name", "value": SIDECAR}
    operations: list[Json] = []
    left = []
    # The deepest first: what holds them was added only where it is empty without them.
    for field, change in sorted(edit["fields"].items(), key=lambda entry: -entry[0].count(".")):
        *parents, last = field.split(".")
        place = now
        for parent in parents:
            place = place.get(parent) or {}
        value, path = place.get(last), f"{at}/{field.replace('.', '/')}"
        if value == change.get("before"):
            continue
        if value != change["set"]:
            if change["set"] != {}:
                shown = "absent" if value is None else json.dumps(value)
                left.append(f"{field} of container {SIDECAR} is now {shown}, set by somebody else")
        elif "before" in change:
            place[last] = change["before"]
            operations.append({"op": "replace", "path": path, "value": change["before"]})
        else:
            del place[last]
            operations.append({"op": "remove", "path": path})
    if edit["added"]:
        rest = {name: value for name, value in now.items() if value != _DEFAULTS.get(name)}
        if rest == edit["added"]:
            return [named, {"op": "remove", "path": at}], []
        names = sorted(rest.keys() | edit["added"].keys())
        others = ", ".join(name for name in names if rest.get(name) != edit["added"].get(name))
        left.append(f"container {SIDECAR}, which the run added, was changed by somebody else ({others})")
    return [named, *operations] if operations else [], left
