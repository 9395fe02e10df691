"""The command line: what it prints, its exit status, and files that are not what they should be."""

import doctest
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import warnings
import zipfile
from importlib.metadata import entry_points, version
from pathlib import Path

import numpy as np
import pytest

from adapter_source import adapter
from tcdecomp import _progress, cli, hookimpl, mig_score, score
from tcdecomp.demo import __main__ as demo
from tcdecomp.plugins import registry
from tcdecomp.scoring.files import FileError, read_npz

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "cli.md"

pytestmark = pytest.mark.usefixtures("no_plugins")

GRID = np.indices((4, 4)).reshape(2, 16).T
MU, LOGVAR = GRID - GRID.mean(0), np.full((16, 2), -3.0)


@pytest.fixture(autouse=True)
def _no_progress(monkeypatch):
    """Keep a slow machine's progress bar out of stderr."""
    monkeypatch.setattr(_progress, "PATIENCE", 1e9)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Make an empty folder the current one, and return it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(here, capsys):
    """Return a function that runs a command, and returns its status, stdout and stderr."""

    def run(*arguments):
        try:
            status = cli.main(arguments)
        except SystemExit as stop:
            status = stop.code
        return (status, *capsys.readouterr())

    return run


# The page


def console(text):
    """Return the commands of the page's console blocks, each with what it is to print."""
    blocks = re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block.removeprefix("$ ").partition("\n")[::2] for block in blocks]


def agree(shown, printed):
    """Tell whether that was printed, where "..." stands for anything."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(shown, printed, flags)


def test_the_commands_of_the_page_print_what_it_shows(run, monkeypatch):
    # Loading all frameworks takes long, and is not what the page is about.
    only_torch = {"torch": importlib.util.find_spec("torch")}
    monkeypatch.setattr(registry, "find_spec", only_torch.get)
    for code in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        exec(code, {})
    commands = console(PAGE.read_text())
    assert len(commands) == 5
    for command, shown in commands:
        program, *arguments = shlex.split(command)
        status, out, err = run(*arguments)
        assert program == "tcdecomp"
        assert agree(shown, out + err), out + err
        assert status == bool(err)
    assert Path("score.png").read_bytes().startswith(b"\x89PNG")


def test_the_check_above_can_fail():
    ((command, shown),) = console("```console\n$ tcdecomp score x\na ... c\nd\n```\n")
    assert command == "tcdecomp score x"
    assert agree(shown, "a b\nb   c\nd\n")
    assert not agree(shown, "a c\ne\n")


def test_other_commands_of_the_page_are_understood():
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    ((program, command, *arguments),) = map(shlex.split, "".join(blocks).splitlines())
    assert (program, command) == ("tcdecomp", "demo")
    assert demo.parse(arguments).quick


# score


def test_tables_and_json_are_those_of_the_report(run):
    np.savez("all.npz", mu=MU, logvar=LOGVAR, factors=GRID)
    report = score((MU, LOGVAR), factors=GRID)
    assert run("score", "all.npz") == (0, f"{report}\n", "")
    status, out, err = run("score", "all.npz", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out) == report.to_dict()


SPREADS = {
    "log_var": LOGVAR,
    "logVar": LOGVAR,
    "log_covariance": LOGVAR,
    "log_std": LOGVAR / 2,
    "log_sd": LOGVAR / 2,
    "logsigma": LOGVAR / 2,
    "log_std_dev": LOGVAR / 2,
    "std": np.exp(LOGVAR / 2),
    "sigma": np.exp(LOGVAR / 2),
    "var": np.exp(LOGVAR),
}


@pytest.mark.parametrize("name", SPREADS)
@pytest.mark.parametrize(("mean", "labels"), [("mu", "factors"), ("Loc", "labels")])
def test_arrays_of_other_names_are_read(run, name, mean, labels):
    np.savez("all.npz", **{mean: MU, name: SPREADS[name], labels: GRID})
    status, out, err = run("score", "all.npz", "--json")
    assert (status, err) == (0, "")
    report = score((MU, LOGVAR), factors=GRID)
    assert json.loads(out)["kl"] == pytest.approx(report.to_dict()["kl"])
    assert json.loads(out)["mig"] == report.mig.score


def test_arrays_that_are_not_read_are_named(run):
    other = {"colour": GRID, "notes": np.array({}, dtype=object), "std": np.exp(LOGVAR / 2)}
    np.savez("all.npz", mu=MU, logvar=LOGVAR, **other)
    status, _, err = run("score", "all.npz")
    assert (status, err) == (0, "tcdecomp: all.npz: not read: colour, notes, std\n")


@pytest.mark.parametrize("name", ["mu", "codes"])
def test_codes_alone_have_a_mig(run, name):
    np.savez("codes.npz", **{name: MU}, factors=GRID)
    _, out, _ = run("score", "codes.npz", "--json")
    assert json.loads(out)["mig"] == pytest.approx(1)
    assert json.loads(out)["total_correlation"] is None


def test_posteriors_alone_have_terms(run):
    np.savez("mu.npz", mu=MU, logvar=LOGVAR)
    _, out, _ = run("score", "mu.npz", "--json")
    kl = 0.5 * (MU**2 + np.exp(LOGVAR) - 1 - LOGVAR).sum(1).mean()
    assert json.loads(out)["kl"] == pytest.approx(kl)
    assert json.loads(out)["mig"] is None


def test_options_reach_the_score(run):
    numbers = np.random.default_rng(0).random((300, 2))
    np.savez("all.npz", mu=numbers, logvar=0 * numbers - 3, factors=numbers**2)
    _, out, _ = run(
        *("score", "all.npz", "--continuous", "--n-bins", "8", "--num-samples", "500", "--json")
    )
    mig = {"n_bins": 8, "discrete_factors": False}
    report = score((numbers, 0 * numbers - 3), factors=numbers**2, mig=mig, num_samples=500)
    assert json.loads(out) == report.to_dict()


def test_a_warning_is_one_line_and_its_remedy_an_option(run):
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 8, (8000, 2))
    codes = rng.permutation(64).reshape(8, 8)[factors, rng.integers(0, 8, (8000, 2))]
    np.savez("labels.npz", codes=codes, factors=factors)
    status, out, err = run("score", "labels.npz", "--json")
    assert status == 0
    told, *rest = err.splitlines()
    assert rest == []
    assert told.startswith("tcdecomp: warning: labels.npz: codes hold whole numbers in 'z0', 'z1'")
    assert "pass --discrete-codes" in told
    assert "pass --no-discrete-codes" in told
    status, again, err = run("score", "labels.npz", "--json", "--no-discrete-codes")
    assert (status, err) == (0, "")
    first, second = json.loads(out), json.loads(again)
    told = [report.pop("settings")["discrete_codes"] for report in (first, second)]
    assert (first, told) == (second, ["None", "False"])
    status, out, err = run("score", "labels.npz", "--json", "--discrete-codes")
    assert (status, err) == (0, "")
    assert json.loads(out)["mig"] == mig_score(codes, factors, discrete_codes=True)


@pytest.mark.parametrize(
    ("names", "found"),
    [("dcimig,mcc", ["dcimig", "mcc"]), ("none", []), ("all", ["dci_disentanglement", "sap"])],
)
def test_scores_are_chosen_by_name(run, names, found):
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 3, (300, 2))
    np.savez("all.npz", codes=factors + 0.1 * rng.normal(size=(300, 2)), factors=factors)
    status, out, err = run(
        "score", "all.npz", "--json", "--scores", names, "--correction", "miller-madow"
    )
    assert (status, err) == (0, "")
    numbers = json.loads(out)
    assert all(numbers[name] > 0.1 for name in found)
    assert ("sap" in numbers) == (names == "all")
    assert ("mcc" in numbers) == ("mcc" in found or names == "all")


def test_scores_that_do_not_exist(run):
    np.savez("all.npz", codes=MU, factors=GRID)
    status, _, err = run("score", "all.npz", "--scores", "fid")
    assert status == 1
    assert err.startswith("tcdecomp: error: all.npz: scores must be 'all' or names of mig, ")


def test_the_remedies_for_few_rows_and_outliers_are_options(run):
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 8, (300, 1))
    codes = np.column_stack([factors[:, 0] + 0.1 * rng.normal(size=300), rng.normal(size=300)])
    np.savez("few.npz", codes=codes, factors=factors)
    assert "or pass --correction miller-madow" in run("score", "few.npz")[2]
    options = {"correction": "miller-madow", "strategy": "robust"}
    arguments = (f"--{name}={value}" for name, value in options.items())
    status, out, err = run("score", "few.npz", "--json", *arguments)
    assert (status, err) == (0, "")
    assert json.loads(out)["mig"] == mig_score(codes, factors, **options)


def test_standard_deviations_in_place_of_log_variances_are_told(run):
    std = np.exp(np.random.default_rng(0).normal(size=(500, 2)))
    np.savez("all.npz", mu=std - 1, logvar=std)
    status, _, err = run("score", "all.npz")
    assert status == 0
    assert re.fullmatch(r"tcdecomp: warning: all.npz: logvar has .* standard deviation .*\n", err)
    np.savez("all.npz", mu=std - 1, std=std)
    assert run("score", "all.npz")[2] == ""


@pytest.mark.parametrize("name", ["score.png", "score.svg"])
def test_a_picture_is_written(run, name):
    np.savez("codes.npz", codes=MU, factors=GRID)
    _, printed, _ = run("score", "codes.npz")
    assert run("score", "codes.npz", "--plot", name) == (0, printed, "")
    assert Path(name).stat().st_size > 5000


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no/folder.png", "--plot must lie in a folder that exists; got no/folder.png"),
        ("score.xyz", "--plot must end in one of .*, .png, .*; got score.xyz"),
        ("score", "--plot must end in one of .*; got score"),
    ],
)
def test_a_path_that_no_picture_can_have_is_refused_before_the_score(
    run, path, message, monkeypatch
):
    np.savez("codes.npz", codes=MU)
    monkeypatch.setattr(cli, "score", None)
    status, out, err = run("score", "codes.npz", "--plot", path)
    assert (status, out) == (1, "")
    assert re.fullmatch(rf"tcdecomp: error: .*{message}.*\n", err)


def test_a_picture_that_cannot_be_written_is_one_line(run):
    np.savez("codes.npz", codes=MU)
    Path("folder.png").mkdir()
    status, out, err = run("score", "codes.npz", "--plot", "folder.png")
    assert (status, out) == (1, f"{score(MU)}\n")
    assert re.fullmatch(r"tcdecomp: error: .*Is a directory: 'folder.png'\n", err)


def test_without_matplotlib_the_error_names_the_extra(run, monkeypatch):
    np.savez("codes.npz", codes=MU)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, _, err = run("score", "codes.npz", "--plot", "score.png")
    assert status == 1
    assert re.fullmatch(r'tcdecomp: error: .* needs matplotlib.*"tcdecomp\[plot\]"\n', err)


BAD = {
    "nothing": (
        {"other": MU},
        "data.npz: must hold either mu or codes; got other",
    ),
    "both": ({"codes": MU, "mu": MU}, "data.npz: must hold either mu or codes; got codes, mu"),
    "no mu": ({"logvar": MU}, "data.npz: must hold either mu or codes; got logvar"),
    "codes with logvar": (
        {"codes": MU, "logvar": LOGVAR},
        "data.npz: must hold mu beside logvar; got codes, logvar",
    ),
    "pickled": (
        {"mu": np.array([{}], dtype=object)},
        "data.npz: mu must be an array of numbers; got an array of Python objects",
    ),
    "ragged": (
        {"mu": np.array([[1, 2], [3]], dtype=object), "logvar": LOGVAR},
        "mu must be an array of numbers; .* Rows of different lengths",
    ),
    "no spread": ({"mu": MU, "std": 0 * LOGVAR}, "data.npz: std must be positive; got -?0.0"),
    "words for a spread": ({"mu": MU, "var": MU.astype(str)}, "logvar must hold real numbers"),
    "raw bfloat16": ({"mu": MU.astype("V2"), "logvar": LOGVAR}, "mu must hold real numbers; got"),
    "shapes": ({"mu": MU, "logvar": LOGVAR[:3]}, r"npz: mu and logvar must share one shape"),
    "complex": ({"mu": MU * 1j, "logvar": LOGVAR}, "mu must hold real numbers; got dtype complex"),
    "nan": ({"mu": MU * np.nan, "logvar": LOGVAR}, "mu must be finite; got nan at row 0, column 0"),
    "words": ({"codes": MU.astype(str)}, "codes must hold real numbers; got dtype <U32 in 'z0'"),
    "one row": ({"mu": MU[:1], "logvar": LOGVAR[:1]}, "at least two items; got 1"),
    "no rows": ({"mu": MU[:0], "logvar": LOGVAR[:0]}, "must not be empty"),
    "factors of others": ({"codes": MU, "factors": GRID[:3]}, "got 16 and 3 rows"),
    "constant factor": ({"codes": MU, "factors": 0 * GRID}, "must take at least two values"),
    "numbers": (
        {"codes": MU, "factors": np.sqrt(np.arange(16))},
        "quantities, pass --continuous(?!,)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_with_other_content_is_one_line_of_error(run, case):
    arrays, message = BAD[case]
    np.savez("data.npz", **arrays)
    status, out, err = run("score", "data.npz")
    assert (status, out) == (1, "")
    assert re.fullmatch(rf"tcdecomp: error: .*{message}.*\n", err), err


def truncated(path):
    np.savez(path, mu=MU)
    path.write_bytes(path.read_bytes()[:-100])


def npy(path):
    with path.open("wb") as file:
        np.save(file, MU)


def no_npy(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mu", "1 2 3")


UNREADABLE = {
    "missing": (lambda path: None, "no such file"),
    "a folder": (Path.mkdir, "a folder, no file"),
    "empty": (Path.touch, "not an npz file, or not all of one"),
    "text": (lambda path: path.write_text("mu"), "not an npz file, or not all of one"),
    "npy": (npy, "not an npz file, or not all of one"),
    "truncated": (truncated, "not an npz file, or not all of one"),
    "no npy inside": (no_npy, "mu must be an array; got bytes"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_an_unreadable_file_is_one_line_of_error(run, here, case):
    make, message = UNREADABLE[case]
    make(here / "data.npz")
    assert run("score", "data.npz") == (1, "", f"tcdecomp: error: data.npz: {message}\n")


def test_a_damaged_file_is_never_a_traceback(here):
    path = here / "data.npz"
    np.savez_compressed(path, mu=MU, factors=GRID)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    outcomes = set()
    for _ in range(500):
        content = bytearray(whole)
        for place in rng.integers(len(whole), size=3):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            read_npz(path, ("mu", "factors"))
        except FileError as error:
            outcomes.add(str(error).split(": ")[1])
    assert {"not an npz file, or not all of one", "cannot be read"} <= outcomes


# plugins


@pytest.fixture
def only(installed, monkeypatch):
    """Hide what is really installed, and return the function that installs a distribution."""
    real = entry_points

    def of_the_test(group):
        return [entry for entry in real(group=group) if entry.dist.name != "tcdecomp"]

    monkeypatch.setattr(registry, "entry_points", of_the_test)
    return installed


def test_every_plugin_is_listed_whatever_is_wrong_with_others(run, only):
    sound = adapter(1)
    misspelt = "from tcdecomp import hookimpl\n@hookimpl\ndef tcdecomp_encoed(model): pass"
    only("one-adapter", {"a_pkg": "a_adapter"}, a_adapter=sound, a_pkg="")
    only("two-adapter", {"b_pkg": "b_adapter"}, b_adapter="import absent_x", b_pkg="")
    only("three-adapter", {"c_pkg": "c_adapter"}, c_adapter="raise SystemExit(3)", c_pkg="")
    only("four-adapter", {"d_pkg": "d_adapter"}, d_adapter=misspelt, d_pkg="")
    only("five-adapter", {"e_pkg": "e_adapter"}, e_adapter="import absent_y")
    only("six-adapter", {"f_pkg": "f_adapter"}, f_adapter=sound, f_pkg="")
    only("seven-adapter", {"f_pkg": "g_adapter"}, g_adapter=sound)
    only("eight-adapter", {"h.pkg": "h_adapter"}, h_adapter=sound)
    only("nine-adapter", {"i_pkg": "i_adapter:nothing"}, i_adapter=sound, i_pkg="")
    status, out, err = run("plugins")
    assert (status, err) == (1, "")
    header, *lines = (re.split(r"  +", line) for line in out.splitlines())
    assert header == ["package", "adapter", "distribution", "state"]
    states = {line[0]: line[1:] for line in lines}
    unknown = states.pop("d_pkg")
    assert unknown[:2] == ["d_adapter", "four-adapter"]
    assert unknown[2].startswith("broken: PluginValidationError: unknown hook 'tcdecomp_encoed'")
    (gone,) = [states.pop("i_pkg")[2]]
    assert gone.startswith("broken: AttributeError: module 'i_adapter' has no attribute 'nothing'")
    (claims,) = [states.pop("f_pkg")]
    assert sorted(claims[0].split(" and ")) == ["f_adapter", "g_adapter"]
    assert sorted(claims[1].split(" and ")) == ["seven-adapter", "six-adapter"]
    assert claims[2] == "claimed twice: all but one must be uninstalled"
    absent = "its package is not installed"
    missing = "broken: ModuleNotFoundError: No module named 'absent_x'"
    assert states == {
        "a_pkg": ["a_adapter", "one-adapter", "ready"],
        "b_pkg": ["b_adapter", "two-adapter", missing],
        "c_pkg": ["c_adapter", "three-adapter", "broken: SystemExit: 3"],
        "e_pkg": ["e_adapter", "five-adapter", absent],
        "h.pkg": ["h_adapter", "eight-adapter", absent],
    }
    assert "g_adapter" not in sys.modules


def test_sound_and_absent_ones_are_no_error(run, only):
    only("one-adapter", {"a_pkg": "a_adapter"}, a_adapter=adapter(1), a_pkg="")
    only("two-adapter", {"b_pkg": "b_adapter"}, b_adapter="import absent_x")
    status, out, err = run("plugins")
    assert (status, err, out.count("\n")) == (0, "", 3)


def test_a_framework_that_warns_when_imported_is_ready(run, only):
    source = "import warnings\nwarnings.warn('old')\n" + "".join(
        line.removeprefix("        ") for line in adapter(1).splitlines(True)
    )
    only("one-adapter", {"a_pkg": "a_adapter"}, a_adapter=source, a_pkg="")
    with warnings.catch_warnings(record=True) as caught:
        assert run("plugins")[0] == 0
    assert caught == []


def test_the_survey_has_those_registered_by_hand_first_and_finds_new_ones(only):
    class ByHand:
        @hookimpl
        def tcdecomp_encode(self):
            """Return None."""

    registry.register(ByHand())
    assert registry.survey() == [registry.Status("", "ByHand", "", "registered")]
    only("one-adapter", {"a_pkg": "a_adapter"}, a_adapter=adapter(1), a_pkg="")
    ready = registry.Status("a_pkg", "a_adapter", "one-adapter", "ready")
    assert registry.survey()[1:] == [ready]
    assert registry.survey()[1:] == [ready]


# The rest


def test_all_that_follows_demo_is_the_demos(run, monkeypatch):
    given = []
    monkeypatch.setattr(
        "tcdecomp.demo.__main__.main", lambda arguments: given.append(arguments) or 3
    )
    assert run("demo", "--quick", "--seeds", "0-7", "--steps=3", "--help") == (3, "", "")
    assert given == [["--quick", "--seeds", "0-7", "--steps=3", "--help"]]


def test_the_version(run):
    assert run("--version") == (0, f"tcdecomp {version('tcdecomp')}\n", "")


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ([], ["score", "plugins", "demo", "--version"]),
        (["score"], ["FILE", "--json", "--plot", "logvar (N, D)", "(sigma, scale)"]),
        (["plugins"], ["which cannot be loaded"]),
    ],
)
def test_help_names_what_there_is(run, command, parts):
    status, out, _ = run(*command, "--help")
    assert status == 0
    assert out.startswith(" ".join(["usage: tcdecomp", *command]))
    assert all(part in out for part in parts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "tcdecomp: error: the following arguments are required: COMMAND"),
        (["skore"], "invalid choice: 'skore'"),
        (["score"], "tcdecomp score: error: the following arguments are required: FILE"),
        (["score", "x", "--n-bins", "ten"], "argument --n-bins: invalid int value: 'ten'"),
        (["plugins", "all"], "unrecognized arguments: all"),
    ],
)
def test_arguments_that_are_not_understood(run, arguments, message):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert message in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--n-bins", "n_bins must be an integer >= 2; got 0"),
        ("--num-samples", "an int >= 100; got 0"),
    ],
)
def test_options_out_of_their_range(run, option, message):
    np.savez("all.npz", mu=MU, logvar=LOGVAR, factors=GRID)
    status, _, err = run("score", "all.npz", option, "0")
    assert status == 1
    assert re.fullmatch(rf"tcdecomp: error: .*{message}\n", err)


def test_a_reader_that_has_seen_enough_is_no_error(here):
    np.savez("all.npz", mu=MU, logvar=LOGVAR, factors=GRID)
    command = [sys.executable, "-m", "tcdecomp", "score", "all.npz"]
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (1, b"")


def test_the_console_script_is_main():
    (script,) = entry_points(group="console_scripts", name="tcdecomp")
    assert script.load() is cli.main


@pytest.mark.parametrize("json", [[], ["--json"]])
@pytest.mark.parametrize("logvar", [1000.0, -1000.0])
def test_posteriors_at_the_ends_of_the_range_give_one_line(run, tmp_path, json, logvar):
    np.savez(tmp_path / "far.npz", mu=np.eye(50)[:, :3], logvar=np.full((50, 3), logvar))
    status, out, err = run("score", str(tmp_path / "far.npz"), *json, "--num-samples", "100")
    *told, last = err.splitlines()
    subject = "logvar must not be so small" if logvar < 0 else "the KL of mu and logvar"
    assert (status, out) == (1, "")
    assert last.startswith(f"tcdecomp: error: {tmp_path / 'far.npz'}: {subject}")
    assert [line.split(": ")[1] for line in told] == ["warning"] * (logvar > 0)


@pytest.mark.parametrize("dtype", [">f8", "<f4", "i8", "?", "longdouble"])
def test_numbers_of_any_kind_are_read(run, tmp_path, dtype):
    np.savez(tmp_path / "kind.npz", mu=GRID.astype(dtype), logvar=LOGVAR)
    status, _, err = run("score", str(tmp_path / "kind.npz"), "--num-samples", "100")
    assert (status, err) == (0, "")
