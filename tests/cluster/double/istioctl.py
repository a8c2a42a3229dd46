"""A double of istioctl: the calls the plugin makes, answered in the shape of the real one.

Knows the flags of a version's commands and refuses others. `install` really puts the
double's istiod, its webhook and its ConfigMaps into the cluster, with kubectl.

Two environment variables: ISTIO_DOUBLE_VERSION, and ISTIO_DOUBLE_FAULT, one of
  install-hangs  install-fails  istiod-never-ready  webhook-never-ready  injection-refused
  revert-privileged-deployment  revert-privileged-pod  refuse-privileged
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import yaml
from control_plane import FAULT, MINOR, VERSION, core, meddler, overlay, pilot, webhooks
from images import observed_pod
from injection import Injector

JSON = dict[str, Any]

BAD_FLAG = 64
"""Exit status for wrong use."""
BAD_COMMAND = 127

MEDDLING = ("revert-privileged-deployment", "revert-privileged-pod", "refuse-privileged")
FIELDS = (
    *("profile", "hub", "tag", "revision", "namespace", "meshConfig", "components", "values"),
    *("addonComponents", "installPackagePath", "unvalidatedValues"),
)
"""The first steps of the paths that an IstioOperator has."""


def fail(message: str, status: int = 1) -> NoReturn:
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(status)


class Parser(argparse.ArgumentParser):
    """Refuses what the real one does not know, in its words."""

    def __init__(self, name: str) -> None:
        super().__init__(prog=f"istioctl {name}", allow_abbrev=False)
        self.add_argument("-c", "--kubeconfig")
        self.add_argument("--context")
        self.add_argument("-n", "--namespace", default="default")
        self.add_argument("-i", "--istioNamespace", default="istio-system")
        self.add_argument("--log_output_level")

    def read(self, arguments: list[str]) -> argparse.Namespace:
        told, rest = self.parse_known_args(arguments)
        for word in rest:
            if word.startswith("--"):
                fail(f"unknown flag: {word.partition('=')[0]}", BAD_FLAG)
            if word.startswith("-") and word != "-":
                fail(f"unknown shorthand flag: {word[1]!r} in {word}", BAD_FLAG)
            fail(f'unknown command "{word}" for "{self.prog}"', BAD_FLAG)
        return told

    def error(self, message: str) -> NoReturn:
        fail(message, BAD_FLAG)


class Cluster:
    """kubectl, with the kubeconfig and context that were given."""

    def __init__(self, told: argparse.Namespace) -> None:
        self._argv = ["kubectl"]
        if told.kubeconfig:
            self._argv.append(f"--kubeconfig={told.kubeconfig}")
        if told.context:
            self._argv.append(f"--context={told.context}")

    def run(self, *arguments: str, text: str = "", timeout: float = 60) -> subprocess.CompletedProcess[str]:
        argv = [*self._argv, *arguments]
        return subprocess.run(argv, input=text, capture_output=True, text=True, timeout=timeout, check=False)

    def get(self, *arguments: str) -> JSON | None:
        done = self.run("get", *arguments, "-o", "json")
        if done.returncode:
            if "NotFound" in done.stderr:
                return None
            fail(done.stderr.strip())
        return json.loads(done.stdout)

    def apply(self, *objects: JSON) -> None:
        done = self.run(
            "apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        )
        if done.returncode:
            fail(f"failed to install manifests: {done.stderr.strip()}")


def install(arguments: list[str]) -> None:
    parser = Parser("install")
    parser.add_argument("-y", "--skip-confirmation", action="store_true")
    parser.add_argument("-s", "--set", action="append", default=[])
    parser.add_argument("-f", "--filename", action="append", default=[])
    parser.add_argument("-r", "--revision", default="")
    parser.add_argument("--readiness-timeout", default="5m0s")
    for name in ("--dry-run", "--force"):
        parser.add_argument(name, action="store_true")
    parser.add_argument("-d", "--manifests", "--charts")
    if MINOR >= (1, 8):
        parser.add_argument("--verify", action="store_true")
    if MINOR >= (1, 18):
        parser.add_argument("--vklog")
    told = parser.read(arguments)
    settings = _settings(told)
    profile = settings.get("profile", "default")
    asked = MINOR >= (1, 8) or not (told.set or told.filename)
    if asked and not told.skip_confirmation:
        print(
            f"This will install the Istio {VERSION} {profile} profile into the cluster. Proceed? (y/N) ",
            end="",
        )
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("Cancelled.")
            sys.exit(1)
    cluster = Cluster(told)
    done = cluster.run("version", "-o", "json", timeout=30)
    if done.returncode:
        fail(f"failed to install manifests: error getting Kubernetes version: {done.stderr.strip()}")
    if profile != "minimal":
        fail(f"failed to install manifests: this double knows the profile minimal, not {profile}")
    if told.dry_run:
        return
    if FAULT == "install-hangs":
        print("- Processing resources for Istio core.", flush=True)
        time.sleep(3600)
    _install(cluster, settings, _seconds(told.readiness_timeout))


def _install(cluster: Cluster, settings: JSON, seconds: int) -> None:
    hub, tag = settings.get("hub", "docker.io/istio"), settings.get("tag", VERSION)
    values = settings.get("values", {})
    values.setdefault("global", {}).setdefault("hub", hub)
    print("- Processing resources for Istio core.", flush=True)
    cluster.apply(*core(settings, values))
    print("✔ Istio core installed", flush=True)
    if FAULT == "install-fails":
        print("- Processing resources for Istiod.")
        print("✘ Istiod encountered an error: failed to update resource with server-side apply: as asked for")
        print("- Pruning removed resources", flush=True)
        fail("failed to install manifests: errors occurred during operation")
    print("- Processing resources for Istiod.", flush=True)
    cluster.apply(*pilot(f"{hub}/pilot:{tag}", values), webhooks())
    print("- Processing resources for Istiod. Waiting for Deployment/istio-system/istiod", flush=True)
    rollout = ("-n", "istio-system", "rollout", "status", "deployment/istiod", f"--timeout={seconds}s")
    if cluster.run(*rollout, timeout=seconds + 30).returncode:
        print(
            "✘ Istiod encountered an error: failed to wait for resource: "
            f"resources not ready after {seconds}s: timed out waiting for the condition\n"
            "Deployment/istio-system/istiod\n"
            "- Pruning removed resources",
            flush=True,
        )
        fail("failed to install manifests: errors occurred during operation")
    if FAULT in MEDDLING:
        found = cluster.get("mutatingwebhookconfiguration", "istio-sidecar-injector") or {}
        # istiod is ready, so its authority is there
        cluster.apply(meddler(found["webhooks"][0]["clientConfig"]["caBundle"]))
    print("✔ Istiod installed")
    print("- Pruning removed resources")
    print("✔ Installation complete", flush=True)


def _settings(told: argparse.Namespace) -> JSON:
    settings: JSON = {}
    for file in told.filename:
        overlay(settings, yaml.safe_load(Path(file).read_text()).get("spec") or {})
    for item in told.set:
        path, equals, value = item.partition("=")
        if not equals:
            fail(f"failed to install manifests: {item} is not of the form path=value")
        steps = path.replace("\\.", "\0").split(".")
        steps = [step.replace("\0", ".") for step in steps]
        if steps[0] not in FIELDS:
            fail(
                "failed to install manifests: generate config: could not overlay user config over base: "
                f'unknown field "{steps[0]}" in v1alpha1.IstioOperatorSpec'
            )
        place = settings
        for step in steps[:-1]:
            place = place.setdefault(step, {})
        place[steps[-1]] = {"true": True, "false": False}.get(value, value)
    if told.revision:
        fail("failed to install manifests: this double installs no revisions")
    return settings


def _seconds(text: str) -> int:
    """Go's durations, as far as people write them: 5m0s, 300s, 2m."""
    if text.isdecimal():
        fail(
            f'invalid argument "{text}" for "--readiness-timeout" flag: '
            f'time: missing unit in duration "{text}"',
            BAD_FLAG,
        )
    minutes, _, rest = text.rpartition("m")
    return int(minutes or 0) * 60 + int(float(rest.removesuffix("s") or 0))


def verify_install(arguments: list[str]) -> None:
    parser = Parser("verify-install")
    parser.add_argument("-f", "--filename", action="append")
    parser.add_argument("-r", "--revision")
    parser.add_argument("-d", "--manifests")
    parser.add_argument("--enableVerbose", action="store_true")
    cluster = Cluster(parser.read(arguments))
    deployment = cluster.get("deployment", "istiod", "-n", "istio-system")
    if deployment is None:
        fail(
            "could not load IstioOperator from cluster: "
            'istiooperators.install.istio.io "installed-state" not found'
        )
    if not deployment.get("status", {}).get("availableReplicas"):
        fail(
            'Istio installation failed, incomplete or does not match "": '
            "the required Deployment:istiod is not ready"
        )
    for kind, name in (
        ("ClusterRole", "istiod-istio-system"),
        ("ConfigMap", "istio"),
        ("Deployment", "istiod"),
    ):
        print(f"{kind}: {name}.istio-system checked successfully")
    print(
        "Checked 0 custom resource definitions\nChecked 1 Istio Deployments\n"
        "✔ Istio is installed and verified successfully"
    )


def kube_inject(arguments: list[str]) -> None:
    parser = Parser("kube-inject")
    parser.add_argument("-f", "--filename", required=True)
    parser.add_argument("-o", "--output")
    parser.add_argument("-r", "--revision")
    for name in (
        "--injectConfigFile",
        "--injectConfigMapName",
        "--meshConfigFile",
        "--meshConfigMapName",
        "--valuesFile",
    ):
        parser.add_argument(name)
    told = parser.read(arguments)
    cluster = Cluster(told)
    found = cluster.get("configmap", "istio-sidecar-injector", "-n", told.istioNamespace)
    if found is None:
        fail(
            'could not find valid configmap "istio-sidecar-injector" from namespace '
            f'"{told.istioNamespace}": configmaps "istio-sidecar-injector" not found - '
            "Use --injectConfigFile or re-run kube-inject with "
            "`-i <istioSystemNamespace>` and ensure istio-sidecar-injector configmap exists"
        )
    if FAULT == "injection-refused":
        fail("double: injection refused, as asked for")
    values = json.loads(found["data"]["values"])
    minor = int(json.loads(cluster.run("version", "-o", "json").stdout)["serverVersion"]["minor"].rstrip("+"))
    injector = Injector(
        version=VERSION,
        observed=json.loads(observed_pod(VERSION).read_text()),
        hub=values.get("global", {}).get("hub", "docker.io/istio"),
        values=values,
        native=MINOR >= (1, 27) and minor >= 33,
    )
    text = sys.stdin.read() if told.filename == "-" else Path(told.filename).read_text()
    written = [
        yaml.safe_dump(_injected(document, injector), default_flow_style=False)
        for document in yaml.safe_load_all(text)
        if document is not None
    ]
    out = "---\n".join(written) + "---\n"
    if told.output:
        Path(told.output).write_text(out)
    else:
        sys.stdout.write(out)


def _injected(document: JSON, injector: Injector) -> JSON:
    """A manifest's object, with a sidecar where it is or makes pods."""
    name = document["metadata"].get("name")
    if document["kind"] == "Pod":
        return injector.inject(document, owner=name)
    template = document.get("spec", {}).get("template")
    if not isinstance(template, dict) or "spec" not in template:
        return document
    injected = injector.inject(template, owner=name)
    return {**document, "spec": {**document["spec"], "template": injected}}


def proxy_config(arguments: list[str]) -> None:
    kind = arguments.pop(0) if arguments and not arguments[0].startswith("-") else ""
    if kind not in ("listener", "listeners", "l"):
        fail(f'unknown command "{kind}" for "istioctl proxy-config"', BAD_COMMAND)
    parser = Parser("proxy-config listener")
    parser.add_argument("pod")
    parser.add_argument("-o", "--output", default="short")
    parser.add_argument("--address")
    parser.add_argument("--port", type=int)
    parser.add_argument("--type")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("-f", "--file")
    told = parser.read(arguments)
    pod, _, namespace = told.pod.partition(".")
    argv = (
        "exec",
        "-n",
        namespace or told.namespace,
        pod,
        "-c",
        "istio-proxy",
        "--",
        "pilot-agent",
        "request",
        "GET",
    )
    done = Cluster(told).run(*argv, "config_dump")
    if done.returncode:
        fail(f"failed to execute command on Envoy: {done.stderr.strip()}")
    dump = next(c for c in json.loads(done.stdout)["configs"] if c["@type"].endswith("ListenersConfigDump"))
    listeners = [entry["listener"] for entry in dump.get("static_listeners", [])]
    listeners += [entry["active_state"]["listener"] for entry in dump.get("dynamic_listeners", [])]
    if told.port:
        listeners = [one for one in listeners if one["address"]["socket_address"]["port_value"] == told.port]
    if told.output == "json":
        print(json.dumps(listeners, indent=4))
        return
    print(
        f"{'ADDRESS':<8} {'PORT':<6}{'MATCH':<6}DESTINATION"
        if MINOR >= (1, 8)
        else f"{'ADDRESS':<12} {'PORT':<6}TYPE"
    )
    for one in listeners:
        socket = one["address"]["socket_address"]
        known = {15001: "PassthroughCluster", 15006: "InboundPassthroughClusterIpv4"}
        target = known.get(
            socket["port_value"],
            "Inline Route: /healthz/ready*"
            if socket["port_value"] == 15021
            else "Inline Route: /stats/prometheus*",
        )
        print(
            f"{socket['address']:<8} {socket['port_value']:<6}{'ALL':<6}{target}"
            if MINOR >= (1, 8)
            else f"{socket['address']:<12} {socket['port_value']:<6}TCP"
        )


def version(arguments: list[str]) -> None:
    parser = Parser("version")
    parser.add_argument("-o", "--output", choices=("json", "yaml"))
    parser.add_argument("-s", "--short", nargs="?", const="true", default="true")
    parser.add_argument("--remote", nargs="?", const="true", default="true")
    parser.add_argument("-r", "--revision")
    told = parser.read(arguments)
    info = {
        "version": VERSION,
        "revision": "double",
        "golang_version": "none",
        "status": "Double",
        "tag": VERSION,
    }
    said: JSON = {"clientVersion": info}
    running = None
    if told.remote == "true":
        deployment = Cluster(told).get("deployment", "istiod", "-n", told.istioNamespace)
        if deployment:
            running = deployment["spec"]["template"]["spec"]["containers"][0]["image"].rpartition(":")[2]
            said["meshVersion"] = [{"Component": "pilot", "Info": {**info, "version": running}}]
    if told.output:
        print(json.dumps(said, indent=2) if told.output == "json" else yaml.safe_dump(said))
    elif told.remote != "true":
        print(VERSION)
    elif running is None:
        print(f'no running Istio pods in "{told.istioNamespace}"\n{VERSION}')
    else:
        print(f"client version: {VERSION}\ncontrol plane version: {running}\ndata plane version: none")


def uninstall(arguments: list[str]) -> None:
    parser = Parser("experimental uninstall")
    parser.add_argument("--purge", action="store_true")
    parser.add_argument("-y", "--skip-confirmation", action="store_true")
    parser.add_argument("--force", action="store_true")
    parser.add_argument("-r", "--revision")
    parser.add_argument("-f", "--filename")
    told = parser.read(arguments)
    if not told.purge:
        fail("at least one of the --revision, --filename or --purge flags must be set")
    if not told.skip_confirmation:
        print("All Istio resources will be pruned from the cluster\nProceed? (y/N) ", end="")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            sys.exit("Cancelled.")
    cluster = Cluster(told)
    wholes = "mutatingwebhookconfigurations,clusterroles,clusterrolebindings"
    label = ("-l", "install.operator.istio.io/owning-resource", "--ignore-not-found", "-o", "name")
    for what in ((wholes,), ("deployments,services,configmaps,serviceaccounts", "-n", "istio-system")):
        done = cluster.run("delete", *what, *label, timeout=120)
        if done.returncode:
            fail(done.stderr.strip())
        for line in done.stdout.splitlines():
            print(f"  Removed {line}.")
    print("✔ Uninstall complete")


def main() -> None:
    commands = {
        "install": install,
        "verify-install": verify_install,
        "kube-inject": kube_inject,
        "proxy-config": proxy_config,
        "pc": proxy_config,
        "version": version,
    }
    words = sys.argv[1:]
    if words[:1] in (["x"], ["experimental"]) and words[1:2] == ["uninstall"] and MINOR >= (1, 7):
        uninstall(words[2:])
    elif words[:1] == ["uninstall"] and MINOR >= (1, 18):
        uninstall(words[1:])
    elif words and words[0] in commands:
        commands[words[0]](words[1:])
    else:
        fail(f'unknown command "{words[0] if words else ""}" for "istioctl"', BAD_COMMAND)


if __name__ == "__main__":
    main()
