"""Writes docs/reference/ from the code: options, fixtures, public names, the command line, messages.

Knows where each of them is defined and how it reads in Markdown. Invariant: every sentence on a page
about a name comes from that name's own text; the same code gives the same pages under every Python.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import griffe

CHECKOUT = Path(__file__).parents[1]
FOLDER = CHECKOUT / "docs" / "reference"
NOTICE = "<!-- Made by scripts/reference.py. Change the code's own texts, then run it again. -->"
WIDTH = 100

SECTIONS = (
    (
        "assertions",
        "Assertions",
        (
            "Each raises a subclass of `AssertionError` whose message is the whole explanation, or "
            "`Undecided` where no verdict can be reached. They need no fixture."
        ),
    ),
    (
        "checks",
        "Checks",
        "What the assertions ask: each returns findings and raises nothing for a verdict against.",
    ),
    ("netfilter", "Rules and packets", "What a ruleset means; nothing of Istio."),
    ("istio", "What Istio means", "Which rules a release installs."),
    ("errors", "Errors", "Only a `VerdictAgainst` fails a test; any other is reported as ERROR."),
    ("", "More", "What is none of these."),
)
"""Beginning of the home module, heading, first sentence."""

MESSAGES = {
    "1": "Verdicts and notices",
    "2": "Listings, rules and packets",
    "3": "Options and releases of Istio",
    "4": "What prevents a verdict",
    "5": "Reading a pod",
    "6": "Files and embedded pods",
    "7": "Clusters, kind and Istio in them",
    "8": "This machine",
    "9": "Options of pytest and of the command line",
}
"""The first digit of a code: what its messages are about."""


def main() -> int:
    """Write the pages; returns 0."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


def pages() -> dict[str, str]:
    """Every page of the reference, by file name."""
    package = griffe.load("pytest_istio_sidecar", search_paths=[CHECKOUT], allow_inspection=False)
    made = {
        "options.md": _options(),
        "fixtures.md": _fixtures(package),
        "python.md": _names(package),
        "command-line.md": _command_line(package),
        "messages.md": _messages(),
    }
    return {name: "\n".join((NOTICE, "", *lines)).rstrip() + "\n" for name, lines in made.items()}


def _options() -> Iterator[str]:
    from pytest_istio_sidecar.plugin.options import OPTIONS

    yield "# Options"
    yield ""
    yield (
        "Given to pytest. Each has a twin in the ini file (`pytest.ini`, `pyproject.toml`) of the name in "
        "the second column; one that may be repeated is a list of lines there, a flag is true or false. "
        "The command line wins over the ini file."
    )
    yield ""
    yield "| Option | Ini key | What it says |"
    yield "|---|---|---|"
    for option in OPTIONS:
        value = f"={option.metavar}" if option.metavar else ""
        yield f"| `{_cell(option.name + value)}` | `{option.key}` | {_cell(option.help)} |"
    yield ""
    yield (
        "pytest-kind's `--cluster-name`, `--kind-bin`, `--kind-kubectl-bin`, `--kind-image`, "
        "`--keep-cluster` and `--kubeconfig` are honoured in the kind environment. Where one of them and one "
        "of these say something different, the run stops and names both."
    )
    yield ""
    yield from _names_of_istios_options()


def _names_of_istios_options() -> Iterator[str]:
    """Every name by which an option of Istio's can be given, by what its value then is."""
    from pytest_istio_sidecar.istio.option_table import OPTIONS

    yield "## Options of Istio"
    yield ""
    yield (
        "`--istio-option`, and `--option` of the command line, take an option by any of these names, as "
        "`NAME=VALUE` or as a manifest has it, `NAME: VALUE`. What messages print of options can be "
        "`NAME=VALUE` or as in a manifest, `NAME: VALUE`. What messages print of options can be given as it "
        "stands. An annotation may be written without what stands before its `/`. What each option "
    )
    yield ""
    yield (
        "A value is what istio-iptables is told, and under an annotation's name what the annotation holds. "
        "They differ for the inbound ports that are left out: an annotation has the application's own, to "
        "which injection adds Istio's (15090, since 1.6 15021, and 15020); the flag has all. With 1.8.3 "
        "`excludeInboundPorts=8443` is `inbound_ports_exclude=15090,15021,8443,15020`. With `mode=cni` "
        "(or `istio-cni`) the ports are those that istio-cni adds."
    )
    yield ""
    yield "| Option | Annotation | Flag | Variable |"
    yield "|---|---|---|---|"
    for option in OPTIONS:
        variables = [*option.variables, *filter(None, [option.words])]
        cells = (
            " ".join(f"`{name}`" for name in names) for names in (option.annotations, option.flags, variables)
        )
        yield f"| `{option.name}` | {' | '.join(cells)} |"


def _messages() -> Iterator[str]:
    """Every message of the modules `messages`, by its code."""
    sys.path.append(str(CHECKOUT / "tests" / "support"))
    from catalogue import CATALOGUE

    from pytest_istio_sidecar.failure import IN_THE_TEXT

    yield "# Messages"
    yield ""
    yield (
        "Every message by the code that stays with it. What is in braces is filled in. Facts, such as a "
        "packet's path or what a program printed, stand below a message where there are some."
    )
    for hundreds, heading in MESSAGES.items():
        yield ""
        yield f"## {heading}"
        for message in CATALOGUE:
            if message.code.startswith(f"IS{hundreds}"):
                yield ""
                yield f"**{message.code}** {_template(message.summary)}"
                helps = "" if message.help == IN_THE_TEXT else message.help
                more = {"cause": message.cause, "fix": message.fix or helps, "note": message.note}
                lines = [f"- {label}: {_template(text)}" for label, text in more.items() if text]
                yield from [*([""] if lines else []), *lines]


def _template(text: str) -> str:
    """A template as Markdown: outside of code, brackets and stars are what they are."""
    pieces = _flat(text).split("`")
    pieces[::2] = [re.sub(r"([*<>\[\]])", r"\\\1", piece) for piece in pieces[::2]]
    return "`".join(pieces)


def _fixtures(package: griffe.Module) -> Iterator[str]:
    from pytest_istio_sidecar.plugin.hooks import MARKERS

    yield "# Fixtures and markers"
    yield ""
    yield (
        "The environment is brought up, and heavy modules are imported, when a fixture first needs them. "
        "Every fixture has session scope unless it says otherwise."
    )
    for function in package["plugin.fixtures"].functions.values():
        decorators = [str(decorator.value) for decorator in function.decorators]
        if function.name.startswith("_") or not any("fixture" in decorator for decorator in decorators):
            continue
        scopes = re.findall(r"scope='(\w+)'", " ".join(decorators)) or ["function"]
        scope = "" if scopes == ["session"] else f" ({scopes[0]} scope)"
        yield ""
        yield f"## {function.name}"
        yield ""
        yield f"`{function.returns}`{scope}"
        yield ""
        yield from _docstring(function)
    yield ""
    yield "## Markers"
    yield ""
    for marker in MARKERS:
        name, _, text = marker.partition(": ")
        yield f"- `@pytest.mark.{name}`: {text}"


def _names(package: griffe.Module) -> Iterator[str]:
    own = f"{package.name}."
    homes = {
        name: path.removeprefix(own).removesuffix(f".{name}")
        for name, path in package.imports.items()
        if path.startswith(own)
    }
    yield "# Python names"
    yield ""
    yield (
        "Everything here is imported from `pytest_istio_sidecar`; what has another name, or stands in a "
        "module below it, may change between releases."
    )
    left = dict(homes)
    for beginning, heading, sentence in SECTIONS:
        names = sorted(name for name, home in left.items() if home.startswith(beginning))
        if not names:
            continue
        yield ""
        yield f"## {heading}"
        yield ""
        yield sentence
        for name in names:
            yield ""
            yield from _name(name, package[f"{left.pop(name)}.{name}"])


def _name(name: str, value: griffe.Object) -> Iterator[str]:
    yield f"### {name}"
    yield ""
    if isinstance(value, griffe.Function):
        yield "```py"
        yield from _signature(value)
        yield "```"
        yield ""
        yield from _docstring(value)
        return
    if not isinstance(value, griffe.Class):
        yield from _docstring(value)
        return
    if value.name == "IstioOptions":
        yield from _docstring(value)
        yield ""
        yield from _istio_options(value)
        yield from _members(value)
        return
    if value.bases:
        bases = [str(base).rpartition(".")[2] for base in value.bases]
        yield f"A subclass of {' and '.join(f'`{base}`' for base in bases)}."
        yield ""
    yield from _docstring(value)
    yield from _members(value)


def _istio_options(options: griffe.Class) -> Iterator[str]:
    """The rows of the table of Istio's options; what each says stands below its field."""
    from pytest_istio_sidecar.istio.option_table import OPTIONS

    (table,) = options.resolved_bases
    yield "| Option | A pod asks for it by | Since | What it says |"
    yield "|---|---|---|---|"
    for option in OPTIONS:
        words = (*option.flags, *option.other_variables, *option.annotations, *filter(None, [option.words]))
        asked = ", ".join(f"`{word}`" for word in words)
        since = ".".join(map(str, option.since)) if option.since > (1, 5, 0) else ""
        yield f"| `{option.name}` | {asked} | {since} | {_flat(table[option.name].docstring.value)} |"


def _members(value: griffe.Class) -> Iterator[str]:
    """Values of an enumeration, fields that the docstring does not tell of, and what can be asked of one."""
    public = {name: member for name, member in value.members.items() if not name.startswith("_")}
    fields = {name: member for name, member in public.items() if isinstance(member, griffe.Attribute)}
    text = value.docstring.value if value.docstring is not None else ""
    if any("Enum" in str(base) for base in value.bases):
        yield ""
        yield (
            "Values: "
            + ", ".join(f"`{str(member.value).strip(chr(39))}`" for member in fields.values())
            + "."
        )
        return
    items = []
    for name, member in public.items():
        if isinstance(member, griffe.Function) and member.docstring is not None:
            items.append(f"- `{name}({_arguments(member)})`: {_sentence(member)}")
        elif (
            isinstance(member, griffe.Attribute)
            and "property" in member.labels
            and member.docstring is not None
        ):
            items.append(f"- `{name}`: {_sentence(member)}")
        elif isinstance(member, griffe.Attribute) and not re.search(rf"\b{name}\b[^\n]*:", text):
            meaning = f": {_sentence(member)}" if member.docstring is not None else ""
            items.append(f"- `{name}` (`{member.annotation}`){meaning}")
    yield from ["", *items] if items else []


def _arguments(function: griffe.Function) -> str:
    return ", ".join(
        parameter.name for parameter in function.parameters if parameter.name not in ("self", "cls")
    )


def _signature(function: griffe.Function) -> Iterator[str]:
    shape = _shape(function)
    line = f"{shape.signature(return_type=False, name=function.name)} -> {function.returns}"
    if len(line) <= WIDTH:
        yield line
        return
    yield f"{function.name}("
    kinds = griffe.ParameterKind
    starred = False
    for parameter in shape.parameters:
        if parameter.kind is kinds.keyword_only and not starred:
            yield "    *,"
            starred = True
        stars = {kinds.var_positional: "*", kinds.var_keyword: "**"}.get(parameter.kind, "")
        starred |= parameter.kind is kinds.var_positional
        default = "" if stars or parameter.default is None else f" = {parameter.default}"
        yield f"    {stars}{parameter.name}: {parameter.annotation}{default},"
    yield f") -> {function.returns}"


def _shape(function: griffe.Function) -> griffe.Function:
    """The function whose parameters it has: of an assertion, those of the check that it asks."""
    for decorator in function.decorators:
        if check := re.fullmatch(r"asserting\((\w+)\)", str(decorator.value)):
            return function.parent[check[1]]
    return function


def _docstring(value: griffe.Object) -> Iterator[str]:
    """A docstring of Google's form as Markdown; several names may share an item, as in `uid, gid: …`."""
    if value.docstring is None:
        raise ValueError(f"{value.path} has no docstring")
    for number, block in enumerate(value.docstring.value.split("\n\n")):
        if number:
            yield ""
        heading, _, rest = block.partition("\n")
        if heading in ("Args:", "Attributes:", "Raises:"):
            yield {"Args:": "Arguments:", "Attributes:": "Fields:"}.get(heading, heading)
            yield ""
            for item in re.split(r"\n(?=    \S)", f"\n{rest}")[1:]:
                names, _, meaning = item.partition(": ")
                yield f"- {', '.join(f'`{name.strip()}`' for name in names.split(','))}: {_flat(meaning)}"
        elif heading == "Returns:":
            yield f"Returns: {_flat(rest)}"
        elif block.startswith("    "):
            yield f"```text\n{block}\n```"
        else:
            yield _flat(block)


def _sentence(value: griffe.Object) -> str:
    assert value.docstring is not None
    return _flat(value.docstring.value.split("\n\n")[0])


def _flat(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _command_line(package: griffe.Module) -> Iterator[str]:
    from pytest_istio_sidecar.cli import build_parser

    parser = build_parser()
    yield "# Command line"
    yield ""
    yield (
        "`istio-sidecar COMMAND`, also `python -m pytest_istio_sidecar COMMAND`. With `--json` one document "
        "goes to standard output; messages go to standard error."
    )
    yield ""
    yield "## Exit statuses"
    yield ""
    yield "| Status | Meaning |"
    yield "|---|---|"
    for status in package["cli.command.Status"].attributes.values():
        yield f"| {status.value} | {_sentence(status)} |"
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        yield ""
        yield f"## {name}"
        yield ""
        yield _flat(command.description or "")
        yield ""
        yield "| Argument | What it says |"
        yield "|---|---|"
        for action in command._actions:
            if action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction):
                yield f"| {_cell(_argument(action))} | {_cell(_help(action))} |"
        if command.epilog:
            yield ""
            yield f"```text\n{command.epilog.strip()}\n```"


def _argument(action: argparse.Action) -> str:
    """An argument as it is written."""
    choices = "|".join(map(str, action.choices)) if action.choices else ""
    value = action.metavar or choices or action.dest.upper()
    if not action.option_strings:
        several = {"+": f"{value}…", "*": f"[{value}…]", "?": f"[{value}]"}
        return f"`{several.get(str(action.nargs), value)}`"
    taken = "" if action.nargs == 0 else f" {value}"
    return ", ".join(f"`{name}{taken}`" for name in action.option_strings)


def _help(action: argparse.Action) -> str:
    text = _flat(action.help or "")
    if "default" in text or action.default in (None, False, argparse.SUPPRESS) or action.nargs == 0:
        return text
    return f"{text} (default: {action.default})".strip() if action.default != [] else text


if __name__ == "__main__":
    sys.exit(main())
