"""`istio-sidecar read`: everything a pod's rules can be judged by, in a folder.

Knows what is written where. Does not know how it is read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from pytest_istio_sidecar.cli.command import Commands, Status, add_command, row


def add(commands: Commands) -> None:
    """Register the command."""
    parser = add_command(
        commands,
        "read",
        run,
        help="read a pod's tables and listeners into a folder",
        description="Read every table of both families and back ends, and Envoy's listeners, from a pod of "
        "your cluster. Nothing is changed.",
    )
    parser.add_argument("workload", nargs="?", default="deployment/httpbin", help="KIND/NAME or LABEL=VALUE")

    def option(name: str, **settings: Any) -> None:
        # By pytest's name for it too, which is what messages tell to give.
        parser.add_argument(f"--{name}", f"--istio-{name}", dest=name, **settings)

    option("namespace", default="default")
    option("context", help="of the kubeconfig file (default: the current one)")
    option("kubeconfig", type=Path, help="default: KUBECONFIG, ~/.kube/config")
    option("reader", default="auto", choices=("auto", "exec", "node", "debug", "log"))
    parser.add_argument("--into", type=Path, default=Path("istio-sidecar-read"), metavar="FOLDER")


def run(options: argparse.Namespace) -> Status:
    """Read, write, and say where."""
    from pytest_istio_sidecar.checks.sidecar import check_istio_rules, check_sidecars
    from pytest_istio_sidecar.environments.choices import DEFAULT_VERSION, ExistingChoices, ReaderName
    from pytest_istio_sidecar.environments.cluster.existing import ExistingEnvironment
    from pytest_istio_sidecar.environments.shared import keep
    from pytest_istio_sidecar.errors import EnvironmentProblem
    from pytest_istio_sidecar.machine.progress import Progress
    from pytest_istio_sidecar.reports.document import exceptions_of
    from pytest_istio_sidecar.reports.summary import capture_of
    from pytest_istio_sidecar.reports.verdict import raise_against

    choices = ExistingChoices(
        kubeconfig=options.kubeconfig,
        context=options.context,
        namespace=options.namespace,
        workloads=(options.workload,),
        reader=ReaderName(options.reader),
        timeout=60.0,
    )
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder, "state.json")
        environment = ExistingEnvironment.bring_up(
            choices, state=state, owner=os.getpid(), progress=Progress()
        )
    raise_against(check_sidecars(environment.unproxied()))
    rules = environment.read_rules(options.into)
    try:
        listeners = environment.read_listeners()
    except EnvironmentProblem:
        if choices.reader is not ReaderName.LOG:
            raise
        listeners = ()  # who may read the log only is told what that tells
    options.into.mkdir(parents=True, exist_ok=True)
    facts = dict(environment.describe())
    (options.into / "environment.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    keep(environment, options.into)
    pod = environment.pod()

    def require_rules() -> None:
        if pod.options.inbound_interception_mode != "NONE":
            release, gateway = environment.istio_version, environment.is_gateway
            raise_against(check_istio_rules(rules, release, host=pod.host, gateway=gateway))

    if options.json:
        written = {
            **facts,
            "folder": str(options.into),
            "files": sorted(path.name for path in options.into.iterdir()),
            "rules": {
                f"{ruleset.backend} IPv{ruleset.family}": sum(1 for _ in ruleset.rules())
                for ruleset in rules.rulesets
            },
            "listeners": [f"{listener.address}:{listener.port}" for listener in listeners],
            "notes": list(rules.notes),
        }
        print(json.dumps(written))
        require_rules()
        return Status.HOLDS
    version = environment.istio_version or DEFAULT_VERSION
    capture = capture_of(rules, pod.name, pod.host, version, pod.options, users=pod.users)
    let_by = exceptions_of(capture).items()
    shown = [
        *facts.items(),
        *map(tuple, capture["lines"]),
        *((label, "; ".join(exceptions)) for label, exceptions in let_by),
    ]
    ports = ", ".join(f"{listener.address}:{listener.port}" for listener in listeners)
    for label, text in [*shown, ("listeners", ports), ("written", str(options.into))]:
        print(row((16,), label, text))
    for note in rules.notes:
        print(row((16,), "note", note), file=sys.stderr)
    require_rules()
    return Status.HOLDS
