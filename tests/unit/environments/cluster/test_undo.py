"""Changes to somebody's cluster: written down first, put back by whoever comes later, and only there.

Of an edit only the fields that the run set are put back, each only where it still has the run's value.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from api_double import write_kubeconfig
from cluster_double import CONTEXT, DEPLOYMENT, POD, Cluster, sidecar

from pytest_istio_sidecar.cli import main
from pytest_istio_sidecar.environments.cluster import undo
from pytest_istio_sidecar.environments.cluster.api import KubernetesApi
from pytest_istio_sidecar.environments.cluster.privileged import make_privileged
from pytest_istio_sidecar.environments.cluster.undo import Changes
from pytest_istio_sidecar.environments.cluster.workload import Workload
from pytest_istio_sidecar.machine.lease import EDIT, Lease

HTTPBIN = Workload(namespace="demo", kind="deployment", name="httpbin")
NAME = "deployments/httpbin in namespace demo"
EDITED = {"privileged": True, "allowPrivilegeEscalation": True, "runAsUser": 1337}
PUT_BACK = [f"put {NAME} back"]
SINCE = [f"put {NAME} back; what somebody else has changed in it since stays"]


class Bench:
    """A cluster, and the runs that leave something in it."""

    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster()
        self.folder = folder
        self.kubeconfig = folder / "kubeconfig"
        write_kubeconfig(self.kubeconfig, self.cluster.server_port, "t")

    @property
    def api(self) -> KubernetesApi:
        return KubernetesApi(kubeconfig=self.kubeconfig)

    def left(self) -> list[str]:
        """Names of the files that are kept of runs."""
        return sorted(path.name for path in (self.folder / "runtime").rglob("*") if path.is_file())

    def killed_run(self, change: Callable[[Changes], object]) -> Lease:
        """What a run leaves that made a change and was killed."""
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
            lease = Lease.of(EDIT, process.pid, name="edit-1")
            change(Changes(lease, self.api))
            process.kill()
        return lease

    def killed_run_of_make_privileged(self) -> Lease:
        return self.killed_run(self.make_privileged)

    def make_privileged(self, changes: Changes) -> None:
        make_privileged(self.api, HTTPBIN, lambda held: changes.will_edit(DEPLOYMENT, held))

    def written_by_hand(self, changes: object) -> Lease:
        """A record as a killed run left it, from its text."""
        lease = self.killed_run(lambda _: None)
        lease.write()
        lease.directory.mkdir()
        told = {"kubeconfig": str(self.kubeconfig), "context": None, "server": self.api.server}
        (lease.directory / "changes.json").write_text(json.dumps({**told, "changes": changes}))
        return lease


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(undo, "_PAUSE_SECONDS", 0.01)
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    made = Bench(tmp_path)
    thread = threading.Thread(target=made.cluster.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.cluster.shutdown()
    made.cluster.server_close()
    thread.join()


@pytest.fixture
def clean(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """`istio-sidecar clean`, which has to succeed; the lines that it prints."""

    def clean() -> list[str]:
        assert main(["clean"]) == 0
        return capsys.readouterr().out.splitlines()

    return clean


def test_clean_puts_back_what_a_killed_run_changed(bench: Bench, clean, capsys) -> None:
    def changes_both(changes: Changes) -> None:
        bench.make_privileged(changes)
        changes.will_create(POD)

    bench.killed_run(changes_both)
    assert bench.cluster.context == EDITED
    assert clean() == ["deleted pods/client in namespace demo", *PUT_BACK]
    assert bench.cluster.context == CONTEXT
    assert bench.cluster.pods == {}
    assert bench.left() == []
    assert main(["clean"]) == 0
    assert "nothing was left behind" in capsys.readouterr().err


def test_a_run_that_goes_on_is_left_alone(bench: Bench, clean) -> None:
    changes = Changes(Lease.of(EDIT, os.getpid(), name="edit-1"), bench.api)
    changes.will_create(POD)
    assert clean() == []
    assert POD in bench.cluster.pods
    assert changes.take_back() == ["deleted pods/client in namespace demo"]


def test_another_cluster_is_never_touched(bench: Bench, capsys) -> None:
    bench.killed_run_of_make_privileged()
    write_kubeconfig(bench.kubeconfig, 9, "t")
    assert main(["clean"]) == 3
    assert bench.cluster.context == EDITED
    said = capsys.readouterr().err
    assert "leads to http://127.0.0.1:9 now" in said
    assert bench.left() == ["changes.json", "edit-1.json"]


# What somebody else has changed meanwhile


def test_fields_that_somebody_else_has_set_beside_ours_stay_and_that_is_said(bench: Bench, clean) -> None:
    bench.killed_run_of_make_privileged()
    bench.cluster.somebody_sets(readOnlyRootFilesystem=True, runAsUser=1338)
    assert clean() == SINCE
    assert bench.cluster.context == {**CONTEXT, "readOnlyRootFilesystem": True, "runAsUser": 1338}


@pytest.mark.parametrize(("before", "value", "shown"), [(None, False, "false"), (False, None, "absent")])
def test_a_field_of_ours_that_somebody_else_has_changed_stays_and_is_named(
    bench: Bench, clean, before: object, value: object, shown: str
) -> None:
    bench.cluster.somebody_sets(privileged=before)
    bench.killed_run_of_make_privileged()
    bench.cluster.somebody_sets(privileged=value)
    what = f"securityContext.privileged of container istio-proxy is now {shown}, set by somebody else"
    assert clean() == [
        f"{NAME}: {what}; left as it is",
        f"put {NAME} back, but for that",
    ]
    kept = {} if value is None else {"privileged": value}
    assert bench.cluster.context == {"allowPrivilegeEscalation": False, "runAsUser": 1337, **kept}


def test_where_somebody_else_has_put_it_back_nothing_is_changed(bench: Bench, clean) -> None:
    bench.killed_run_of_make_privileged()
    bench.cluster.context_becomes(CONTEXT)
    version = bench.cluster.version
    assert clean() == [f"{NAME} is as it was already"]
    assert bench.cluster.version == version


def test_an_edit_that_was_written_down_and_never_made_changes_nothing(bench: Bench, clean) -> None:
    bench.killed_run(lambda changes: changes.will_edit(DEPLOYMENT, bench.cluster.deployment()))
    assert clean() == [f"{NAME} is as it was already"]
    assert bench.cluster.patches == []


def test_a_field_that_had_the_value_before_the_run_is_none_of_ours(bench: Bench, clean) -> None:
    bench.cluster.context_becomes({"privileged": True, "allowPrivilegeEscalation": True})
    bench.killed_run_of_make_privileged()
    assert clean() == []
    assert bench.left() == []
    assert bench.cluster.context == {"privileged": True, "allowPrivilegeEscalation": True}


@pytest.mark.parametrize("before", [None, {}, {"runAsUser": 1337}])
def test_what_was_absent_is_absent_again(bench: Bench, clean, before: dict | None) -> None:
    bench.cluster.context_becomes(before)
    bench.killed_run_of_make_privileged()
    assert bench.cluster.context["privileged"] is True
    assert clean() == PUT_BACK
    assert bench.cluster.context == before


def test_a_context_that_the_run_added_stays_where_somebody_else_has_put_something_into_it(
    bench: Bench, clean
) -> None:
    bench.cluster.context_becomes(None)
    bench.killed_run_of_make_privileged()
    bench.cluster.somebody_sets(readOnlyRootFilesystem=True)
    assert clean() == SINCE
    assert bench.cluster.context == {"readOnlyRootFilesystem": True}


def test_a_native_sidecar_is_put_back_where_it_stands_by_now(bench: Bench, clean) -> None:
    native = {"containers": [{"name": "httpbin"}], "initContainers": [sidecar(CONTEXT)]}
    bench.cluster.becomes(native)
    bench.killed_run_of_make_privileged()
    (edited,) = bench.cluster.template["initContainers"]
    moved = [{"name": "istio-validation"}, edited]
    bench.cluster.becomes({**bench.cluster.template, "initContainers": moved})
    assert clean() == SINCE
    assert bench.cluster.context == CONTEXT
    assert bench.cluster.template["initContainers"][0] == {"name": "istio-validation"}


def test_a_sidecar_that_somebody_else_has_taken_out_is_told(bench: Bench, clean) -> None:
    bench.killed_run_of_make_privileged()
    bench.cluster.becomes({"containers": [{"name": "httpbin"}]})
    assert clean() == [f"{NAME}: somebody else has taken out container istio-proxy; left as it is"]


def test_a_workload_that_was_made_anew_meanwhile_is_left_as_it_is(bench: Bench, clean) -> None:
    bench.killed_run_of_make_privileged()
    bench.cluster.uid = "second"
    assert clean() == [f"{NAME} was deleted and made anew by somebody else since; it is left as it is"]
    assert bench.cluster.context == EDITED
    assert bench.left() == []


def test_a_workload_that_is_gone_is_told(bench: Bench, clean) -> None:
    bench.killed_run_of_make_privileged()
    bench.cluster.template = {}
    assert clean() == [f"{NAME} is gone already"]


# A container that the run added, for the webhook to merge


def test_a_container_that_the_run_added_is_taken_out_again(bench: Bench, clean) -> None:
    bench.cluster.becomes({"containers": [{"name": "httpbin"}]})
    bench.killed_run_of_make_privileged()
    assert bench.cluster.context == {"privileged": True, "allowPrivilegeEscalation": True}
    assert clean() == PUT_BACK
    assert bench.cluster.template == {"containers": [{"name": "httpbin"}]}


def test_a_container_that_the_run_added_and_others_use_loses_its_privilege_alone(bench: Bench, clean) -> None:
    bench.cluster.becomes({"containers": [{"name": "httpbin"}]})
    bench.killed_run_of_make_privileged()
    template = copy.deepcopy(bench.cluster.template)
    template["containers"][1]["resources"] = {"limits": {"cpu": "1"}}
    bench.cluster.becomes(template)
    what = "container istio-proxy, which the run added, was changed by somebody else (resources)"
    assert clean() == [
        f"{NAME}: {what}; left as it is",
        f"put {NAME} back, but for that",
    ]
    (_, held) = bench.cluster.template["containers"]
    assert "securityContext" not in held
    assert held["resources"] == {"limits": {"cpu": "1"}}


# Others at the same time, and answers that are refused or lost


def test_a_change_between_reading_and_putting_back_is_read_again(bench: Bench, clean) -> None:
    bench.killed_run_of_make_privileged()
    bench.cluster.before_patch = [lambda: bench.cluster.somebody_sets(privileged=False)]
    assert clean() == SINCE
    assert bench.cluster.context == CONTEXT


def test_putting_back_gives_up_on_what_others_change_without_end_and_keeps_the_record(
    bench: Bench, capsys
) -> None:
    bench.killed_run_of_make_privileged()
    bench.cluster.before_patch = [lambda: bench.cluster.somebody_sets(runAsUser=9)] * 100
    assert main(["clean"]) == 3
    said = capsys.readouterr().err
    assert f"{NAME} could not be put back: the server rejected our request" in said
    assert "are not put back yet; they are written down in" in said
    assert bench.left() == ["changes.json", "edit-1.json"]
    bench.cluster.before_patch = []
    assert main(["clean"]) == 0
    assert bench.cluster.context == {**CONTEXT, "runAsUser": 9}


def test_a_putting_back_that_the_workload_does_not_show_is_an_error(bench: Bench, capsys) -> None:
    bench.killed_run_of_make_privileged()
    bench.cluster.reverts = True
    assert main(["clean"]) == 3
    assert "could not be put back: the API server took it, and shows the" in capsys.readouterr().err
    assert bench.left() == ["changes.json", "edit-1.json"]


def test_what_cannot_be_put_back_keeps_nothing_else_from_it(bench: Bench, capsys) -> None:
    def changes_both(changes: Changes) -> None:
        bench.make_privileged(changes)
        changes.will_create(POD)

    bench.killed_run(changes_both)
    bench.cluster.refused = [("DELETE", POD)]
    assert main(["clean"]) == 3
    said = capsys.readouterr().err
    assert "forbidden: not you" in said
    assert PUT_BACK[0] in said
    assert bench.cluster.context == CONTEXT
    bench.cluster.refused = []
    assert main(["clean"]) == 0
    assert capsys.readouterr().out.splitlines() == ["deleted pods/client in namespace demo"]


def test_what_could_not_be_made_for_want_of_a_right_needs_none_to_be_gone(bench: Bench, clean) -> None:
    bench.cluster.pods.clear()
    bench.cluster.refused = [("DELETE", POD)]
    bench.killed_run(lambda changes: changes.will_create(POD))
    assert clean() == ["pods/client in namespace demo is gone already"]
    assert bench.left() == []


def test_an_edit_whose_answer_was_lost_is_put_back_to_what_was_before_it(bench: Bench, clean) -> None:
    bench.cluster.drops_answer = True
    bench.killed_run_of_make_privileged()
    assert len(bench.cluster.patches) > 1
    assert bench.cluster.context == EDITED
    assert clean() == PUT_BACK
    assert bench.cluster.context == CONTEXT


def test_what_is_put_back_is_what_was_there_when_the_edit_was_made(bench: Bench, clean) -> None:
    bench.cluster.before_patch = [lambda: bench.cluster.somebody_sets(privileged=None)]
    bench.killed_run_of_make_privileged()
    assert clean() == SINCE
    assert bench.cluster.context == {"allowPrivilegeEscalation": False, "runAsUser": 1337}


# The record


def test_the_record_has_each_field_with_its_value_before_and_the_one_that_is_set(bench: Bench) -> None:
    bench.cluster.context_becomes({"privileged": False})
    lease = bench.killed_run_of_make_privileged()
    (edit,) = json.loads((lease.directory / "changes.json").read_text())["changes"]
    assert edit == {
        "edited": DEPLOYMENT,
        "uid": "first",
        "generation": 2,
        "added": None,
        "fields": {
            "securityContext.privileged": {"set": True, "before": False},
            "securityContext.allowPrivilegeEscalation": {"set": True},
        },
    }


@pytest.mark.parametrize("before", [CONTEXT, None])
def test_a_record_of_the_whole_context_as_it_was_written_once_is_put_back_by_fields(
    bench: Bench, clean, before: dict | None
) -> None:
    bench.written_by_hand([{"edited": DEPLOYMENT, "added": False, "context": before}])
    bench.cluster.context_becomes({"privileged": True, "allowPrivilegeEscalation": True, "runAsUser": 5})
    assert clean() == PUT_BACK
    kept = {} if before is None else {"privileged": False, "allowPrivilegeEscalation": False}
    assert bench.cluster.context == {**kept, "runAsUser": 5}


@pytest.mark.parametrize(
    "changes",
    [
        [{"edited": DEPLOYMENT, "fields": {}}],
        [{"edited": DEPLOYMENT, "uid": "", "generation": 1, "added": None, "fields": ["privileged"]}],
        [{"edited": DEPLOYMENT, "uid": "", "generation": 1, "added": None, "fields": {"privileged": {}}}],
        ["edited"],
        7,
    ],
)
def test_a_record_that_cannot_be_read_is_kept_and_says_what_to_do(
    bench: Bench, capsys, changes: object
) -> None:
    bench.written_by_hand(changes)
    bench.cluster.context_becomes(EDITED)
    assert main(["clean"]) == 3
    said = capsys.readouterr().err
    assert "what a run has changed is written down in a way that cannot be read" in said
    assert "put its istio-proxy back by hand" in said
    assert bench.left() == ["changes.json", "edit-1.json"]


def test_a_run_that_was_killed_before_it_wrote_anything_down_has_changed_nothing(bench: Bench, clean) -> None:
    bench.killed_run(lambda _: None).write()
    assert clean() == []
    assert bench.left() == []
