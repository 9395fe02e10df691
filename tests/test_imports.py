"""Imports run one way: down the floors of the house, and in no circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import tcdecomp
import tcdecomp_adapters

# From the top floor to the ground. A module imports from floors below its own, and from its own
# room: a package, or a module that stands by itself.
FLOORS = [
    {"__init__", "__main__"},
    {"cli", "demo"},
    {"tcdecomp_adapters"},
    {"scoring", "auditor", "testing"},
    {"disentanglement"},
    {"plugins", "dataset", "presets"},
    {"decomposition", "loss"},
    {"minibatch"},
    {"kernels", "priors", "_evidence"},
    {"density_ratio", "displays", "posterior", "schedules"},
    {"terms", "metrics", "_checks", "_autocast", "_processes", "_progress"},
    {"_exports", "_extras", "_text"},
]
ROOTS = [Path(package.__file__).parent for package in (tcdecomp, tcdecomp_adapters)]


def name_of(path, root):
    parts = [root.name, *path.relative_to(root).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def room_of(module):
    package, *rest = module.split(".")
    return package if package == "tcdecomp_adapters" else (rest or ["__init__"])[0]


def sources():
    return {name_of(path, root): path.read_text() for root in ROOTS for path in root.rglob("*.py")}


def imports_of(source, modules):
    """Yield the project's modules that a source imports when it runs, not for its types alone."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in modules or node.module in modules:
                    yield whole if whole in modules else node.module


def graph(files):
    # "tcdecomp" itself, where an import names it, is its __init__.
    known = {*files, "tcdecomp"}
    edges = {name: set(imports_of(source, known)) for name, source in files.items()}
    # An import of "package.module" from inside the package does not run through its __init__ again.
    return {
        name: {f"{t}.__init__" if t == "tcdecomp" else t for t in targets} - {name}
        for name, targets in edges.items()
    }


def upward(edges):
    """Return the arrows that do not lead down, or into another room of the same floor."""
    level = {room: index for index, floor in enumerate(FLOORS) for room in floor}
    arrows = [(a, b) for a, targets in edges.items() for b in sorted(targets)]
    return [
        (a, b)
        for a, b in arrows
        if room_of(a) != room_of(b)
        and level[room_of(a)] >= level[room_of(b)]
        # The top floor may also stand on the package's face, as a user would.
        and not (level[room_of(a)] in (1, 2) and b == "tcdecomp.__init__")
    ]


def circle(edges):
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_every_room_has_a_floor():
    rooms = {room_of(name) for name in sources()}
    assert rooms == set().union(*FLOORS)


def test_imports_lead_down():
    assert upward(graph(sources())) == []


def test_imports_run_in_no_circle():
    edges = graph(sources())
    inside = {a: {b for b in targets if b != "tcdecomp.__init__"} for a, targets in edges.items()}
    assert circle(inside) is None


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("tcdecomp._checks", "from tcdecomp.loss import TCDecomposition"),
        ("tcdecomp.terms", "def f():\n    import tcdecomp.kernels.dense"),
        ("tcdecomp.scoring.report", "from tcdecomp.auditor import audit"),
        ("tcdecomp.minibatch.batch", "from tcdecomp import decompose"),
    ],
)
def test_that_test_can_fail(module, line):
    files = sources()
    files[module] += f"\n{line}\n"
    assert module in {a for a, _ in upward(graph(files))}


def test_an_import_for_types_alone_is_no_arrow():
    files = sources()
    files["tcdecomp.terms"] += (
        "\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import tcdecomp.loss\n"
    )
    assert upward(graph(files)) == []


def test_the_test_for_circles_can_fail():
    files = sources()
    files["tcdecomp.scoring.plots"] += "\nfrom tcdecomp.scoring import report\n"
    files["tcdecomp.scoring.report"] += "\nfrom tcdecomp.scoring.plots import draw\n"
    found = circle(graph(files))
    assert found is not None
    assert "tcdecomp.scoring.plots" in found
