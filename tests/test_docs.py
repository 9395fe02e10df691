"""The documentation: its examples run, and nothing public is left out."""

import importlib
import io
import re
import runpy
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path
from pydoc import locate
from types import ModuleType

import pytest
import torch

import tcdecomp
from lightning_models import WARNINGS
from tcdecomp import displays, metrics, plugins, presets, testing
from tcdecomp.plugins import hooks

tomllib = pytest.importorskip("tomllib")  # Python 3.11

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.glob("**/*.md"))]
SCRIPT = "script_of_a_reader"
MODULES = (tcdecomp, displays, metrics, plugins, presets, testing)

FENCE = re.compile(r"^```(\S*)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


# Examples


def blocks(text):
    """Return the fenced blocks: language, number of the line before the first, and content."""
    return [
        (match[1], text.count("\n", 0, match.start(3)), match[3]) for match in FENCE.finditer(text)
    ]


def projects(page):
    """Return the folders of the projects whose files a page includes."""
    fences = FENCE.finditer(page.read_text())
    files = [page.parent / fence[2].strip() for fence in fences if fence[1] == "{literalinclude}"]
    folders = dict.fromkeys(file.parent for file in files)
    return [folder for folder in folders if (folder / "pyproject.toml").is_file()]


def run(page):
    """Run the page's Python in one namespace, as a reader would who follows it from the top.

    The projects that the page includes are installed first. What is printed must be what the
    page shows, where a block of text follows. In a console block the digits may differ, as those of
    a training do among processors.
    """
    for project in projects(page):
        install(project)
    printed = None
    for language, line, content in blocks(page.read_text()):
        if language == "python":
            code = compile("\n" * line + content, str(page), "exec")
            with redirect_stdout(io.StringIO()) as output:
                exec(code, vars(sys.modules[SCRIPT]))
            printed = output.getvalue()
        elif language == "text" and printed:
            assert printed == content, f"{page.name}, line {line}"
        elif language == "console" and printed:
            assert undigited(printed) == undigited(content), f"{page.name}, line {line}"
        else:
            printed = None


def undigited(text):
    """Return the words of a text without colours, with a sign in place of each number."""
    text = re.sub(r"\x1b\[\d+m", "", text)
    return re.sub(r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?", "#", text).split()


def install(project):
    """Write what pip writes when it installs a project: its modules and its entry points.

    tests/test_example_adapter.py leaves it to pip.
    """
    settings = tomllib.loads((project / "pyproject.toml").read_text())
    metadata, modules = settings["project"], settings["tool"]["setuptools"]["py-modules"]
    for name in modules:
        shutil.copy(project / f"{name}.py", ".")
    info = Path(f"{metadata['name'].replace('-', '_')}-{metadata['version']}.dist-info")
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {metadata['name']}\nVersion: {metadata['version']}\n")
    sections = (
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in metadata.get("entry-points", {}).items()
    )
    (info / "entry_points.txt").write_text("".join(sections))
    importlib.invalidate_caches()


@pytest.fixture
def _reader(no_plugins, tmp_path, monkeypatch):
    """A folder to work in that can be imported from, and whatever the examples change put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, SCRIPT, ModuleType(SCRIPT))
    before = set(sys.modules)
    with torch.random.fork_rng():
        yield
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


# Pages whose framework has an environment of its own, and the tests there that run them.
ELSEWHERE = {"scvi": "scvi_tools"}


def page_id(page):
    """Return the page's path without its ending, as learn/mig."""
    return str(page.relative_to(ROOT if page == README else DOCS).with_suffix(""))


def examples():
    """Return the pages with Python on them."""
    pages = [page for page in PAGES if page.stem not in ELSEWHERE]
    return [page for page in pages if "```python" in page.read_text()]


# What Lightning says of its own accord; the examples are to be short.
@pytest.mark.filterwarnings(*WARNINGS)
@pytest.mark.parametrize("page", examples(), ids=page_id)
@pytest.mark.usefixtures("_reader")
def test_examples_run(page):
    run(page)


@pytest.mark.parametrize("page", ELSEWHERE)
def test_examples_that_run_elsewhere_are_run_there(page):
    tests = (ROOT / "tests" / ELSEWHERE[page]).glob("test_*.py")
    assert any(f'"{page}.md"' in path.read_text() for path in tests)


@pytest.mark.parametrize(
    "code",
    [
        "```python\n1 / 0\n```",
        "```python\nprint(1)\n```\n\n```text\n2\n```",
        "```python\nprint('MI 1.5')\n```\n\n```console\nTC 2.5\n```",
    ],
)
@pytest.mark.usefixtures("_reader")
def test_the_check_above_can_fail(code, tmp_path):
    (tmp_path / "page.md").write_text(code)
    with pytest.raises((ZeroDivisionError, AssertionError)):
        run(tmp_path / "page.md")


def test_make_targets_of_the_readme_are_in_the_makefile():
    targets = set(
        re.findall(r"\bmake (\w+)", "\n".join(c for _, _, c in blocks(README.read_text())))
    )
    assert {"demo", "test", "docs", "lint"} <= targets
    assert targets <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_links_of_the_readme_lead_to_files():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README.read_text())
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_each_picture_has_both_themes(theme):
    text = "".join(page.read_text() for page in PAGES if page != README)
    pictures = re.findall(rf"\(\S*pictures/(\S+)-{theme}\.\w+\)", text)
    assert pictures
    other = {"light": "dark", "dark": "light"}[theme]
    assert all(f"{name}-{other}." in text for name in pictures)


# Numbers


@pytest.mark.parametrize("page", [README, DOCS / "index.md"], ids=page_id)
def test_the_table_of_eight_seeds_is_that_of_the_demo(page):
    cell = re.compile(r"\d+\.\d+ \(\d+\.\d+\)")
    cells = cell.findall(page.read_text())
    assert len(cells) >= 12
    assert set(cells) <= set(cell.findall((DOCS / "gallery/demo.md").read_text()))


def test_answers_of_other_libraries_are_those_of_the_audit():
    answers = re.compile(r"\|(?: -?\d+\.\d\d \|){3}$", re.MULTILINE)
    told = answers.findall((DOCS / "migrate/index.md").read_text())
    assert len(told) == 5
    assert set(told) <= set(answers.findall((DOCS / "check/audit.md").read_text()))


@pytest.mark.parametrize("name", ["curves", "sweep"])
def test_tables_of_runs_are_those_of_their_rows(name, monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "pictures")
    squares = importlib.import_module("squares")
    told = (squares.FOLDER / f"{name}.md").read_text()
    assert told == squares.table(squares.read(squares.ROWS), squares.TABLES[name])


# The reference

REFERENCE = ("reference/api.md", "extend/hooks.md")


def documented():
    """Return the names that the reference pages hand to autodoc."""
    text = "".join((DOCS / page).read_text() for page in REFERENCE)
    return re.findall(
        r"^(?:\.\. auto(?:data|function):: |   )(tcdecomp[\w.]+)$", text, re.MULTILINE
    )


def test_documented_names_exist():
    assert [name for name in documented() if locate(name) is None] == []


def test_no_name_is_documented_twice():
    names = documented()
    assert [name for name in names if names.count(name) > 1] == []


@pytest.mark.parametrize("table", ["MEMBERS", "NO_SIGNATURE"])
def test_settings_of_the_reference_are_of_documented_names(table, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])  # conf.py extends it
    names = runpy.run_path(DOCS / "conf.py")[table]
    assert [name for name in names if name not in documented()] == []


@pytest.mark.parametrize(
    "name",
    [
        *(f"{module.__name__}.{name}" for module in MODULES for name in module.__all__),
        *(
            f"tcdecomp.plugins.hooks.{name}"
            for name in hooks.__all__
            if name.startswith("tcdecomp_")
        ),
    ],
)
def test_every_public_name_is_documented(name):
    assert any(locate(other) is locate(name) for other in documented())
