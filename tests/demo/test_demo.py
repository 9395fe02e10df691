"""The demo, tcdecomp.demo: its data, its figures, its output, and its claim."""

import importlib
import math
import os
import re
import subprocess
import sys
import textwrap
import zipfile
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tcdecomp import TCDecomposition
from tcdecomp.metrics import mutual_info_gap


@pytest.fixture(scope="module")
def demo():
    """Return the demo's modules; its ``__main__`` goes by the name of ``main``."""
    pytest.importorskip("lightning")
    pytest.importorskip("matplotlib")
    names = {"main": "__main__", "comparison": "comparison", "images": "images", "models": "models"}
    modules = {key: importlib.import_module(f"tcdecomp.demo.{name}") for key, name in names.items()}
    return SimpleNamespace(**modules)


@pytest.fixture(scope="module")
def squares(demo):
    return demo.images.squares()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Make an empty folder the current one, and return it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ------------------------------------------------------------------------------------- squares


def rasterise(half_width, centre_x, centre_y, side=16, subpixels=4):
    """Paint one square subpixel by subpixel."""
    image = np.zeros((side, side))
    for row in range(side):
        for column in range(side):
            for i in range(subpixels):
                for j in range(subpixels):
                    y = (row + (i + 0.5) / subpixels) / side
                    x = (column + (j + 0.5) / subpixels) / side
                    if max(abs(x - centre_x), abs(y - centre_y)) <= half_width:
                        image[row, column] += 1 / subpixels**2
    return image


@pytest.mark.parametrize("item", [0, 7, 56, 63, 100, 219, 448, 511])
def test_squares_are_what_a_loop_paints(squares, item):
    size, x, y = squares.factors[item]
    expected = rasterise(
        0.128 + size * (0.24 - 0.128) / 7, 0.28 + x * (0.72 - 0.28) / 7, 0.35 + y * 0.30 / 7
    )
    np.testing.assert_allclose(squares.pixels[item], expected, atol=1e-7)


def test_the_grid_of_factors_is_full_and_each_image_is_its_own(squares):
    assert squares.factor_names == ("size", "x", "y")
    cells = {tuple(row) for row in squares.factors.tolist()}
    assert cells == {(a, b, c) for a in range(8) for b in range(8) for c in range(8)}
    assert len(squares) == len(np.unique(squares.pixels.reshape(512, -1), axis=0)) == 512
    assert str(squares) == "512 images of 16x16; factors: size (8), x (8), y (8)"


def test_the_floor_is_the_entropy_of_the_grey_pixels(demo):
    images = np.array([[[0, 1], [0.5, 0]], [[0.5, 0.5], [1, 0.5]]], dtype=np.float32)
    sprites = demo.images.Images(images, np.zeros((2, 1), dtype=np.int64), ("a",))
    assert sprites.floor == pytest.approx((1 + 3) / 2 * math.log(2))


# ------------------------------------------------------------------------------------ dSprites


def dsprites_arrays(**changes):
    """Return arrays in the published layout: a tiny grid, and the pickled metadata beside it."""
    grid = np.meshgrid([0], range(3), range(2), range(4), range(3), range(2), indexing="ij")
    classes = np.stack(grid, axis=-1).reshape(-1, 6)
    images = np.random.default_rng(0).integers(0, 2, (len(classes), 8, 8), dtype=np.uint8)
    arrays = {
        "imgs": images,
        "latents_classes": classes,
        "latents_values": classes.astype(np.float64),
        "metadata": np.array({"title": "dSprites"}, dtype=object),
    }
    return {name: array for name, array in (arrays | changes).items() if array is not None}


def test_dsprites_are_read_without_unpickling(demo, tmp_path):
    path = tmp_path / "dsprites.npz"
    arrays = dsprites_arrays()
    np.savez_compressed(path, **arrays)
    sprites = demo.images.load_dsprites(path, size=1000)
    np.testing.assert_array_equal(sprites.pixels, arrays["imgs"])
    np.testing.assert_array_equal(sprites.factors, arrays["latents_classes"][:, 1:])
    assert sprites.factor_names == ("shape", "scale", "orientation", "x", "y")
    assert sprites.pixels.dtype == np.float32
    assert sprites.side == 8


def test_a_part_of_dsprites_is_drawn_without_replacement_and_the_same_each_time(demo, tmp_path):
    path = tmp_path / "dsprites.npz"
    arrays = dsprites_arrays()
    np.savez_compressed(path, **arrays)
    one, two = (demo.images.load_dsprites(path, size=50) for _ in range(2))
    np.testing.assert_array_equal(one.pixels, two.pixels)
    rows = {tuple(row) for row in one.factors.tolist()}
    assert len(rows) == len(one) == 50
    index = {tuple(row[1:]): n for n, row in enumerate(arrays["latents_classes"].tolist())}
    for image, row in zip(one.pixels, one.factors.tolist(), strict=True):
        np.testing.assert_array_equal(image, arrays["imgs"][index[tuple(row)]])


CLASSES = dsprites_arrays()["latents_classes"]
BROKEN = {
    "no imgs": ({"imgs": None}, "not dSprites: it has no imgs"),
    "no classes": (
        {"latents_classes": None},
        "not dSprites: it has no latents_classes",
    ),
    "pickled": (
        {"imgs": np.array([{}], dtype=object)},
        "imgs must be an array of numbers; got an array of Python objects, which is not unpickled. "
        "Rows of different lengths make one: save one array (N, D)",
    ),
    "flat": (
        {"imgs": np.zeros((144, 64), np.uint8)},
        "imgs must have shape (n, side, side); got (144, 64)",
    ),
    "oblong": (
        {"imgs": np.zeros((144, 8, 4), np.uint8)},
        "imgs must have shape (n, side, side); got (144, 8, 4)",
    ),
    "classes of others": (
        {"latents_classes": CLASSES[:100]},
        "latents_classes must have shape (144, 6); got (100, 6)",
    ),
    "grey": (
        {"imgs": np.full((144, 8, 8), 255, np.uint8)},
        "imgs must hold 0 and 1 only; got 255",
    ),
    "float": (
        {"imgs": np.zeros((144, 8, 8))},
        "imgs must have dtype uint8; got float64",
    ),
    "classes in words": (
        {"latents_classes": CLASSES.astype(str)},
        f"latents_classes must have dtype int64; got {CLASSES.astype(str).dtype}",
    ),
    "nothing varies": (
        {"latents_classes": np.zeros((144, 6), int)},
        "latents_classes must have a factor that varies; got none",
    ),
    "few": (
        {"imgs": np.zeros((9, 8, 8), np.uint8), "latents_classes": CLASSES[:9]},
        "must have at least 128 images; got 9",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_is_not_dsprites_is_one_line_of_error(demo, here, capsys, case):
    changes, message = BROKEN[case]
    np.savez(here / "data.npz", **dsprites_arrays(**changes))
    assert demo.main.main(["--quick", "--data", "data.npz"]) == 1
    assert capsys.readouterr() == ("", f"tcdecomp demo: error: data.npz: {message}\n")


def truncated(path):
    np.savez(path, **dsprites_arrays())
    path.write_bytes(path.read_bytes()[:-500])


def flipped(path):
    np.savez(path, **dsprites_arrays())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("imgs.npy").header_offset
    content = bytearray(path.read_bytes())
    content[start + 600] ^= 1
    path.write_bytes(content)


UNREADABLE = {
    "missing": (lambda path: None, "no such file"),
    "a folder": (Path.mkdir, "a folder, no file"),
    "empty": (Path.touch, "not an npz file, or not all of one"),
    "text": (lambda path: path.write_text("imgs"), "not an npz file, or not all of one"),
    "npy": (
        lambda path: path.write_bytes(b"\x93NUMPY\x01\x00"),
        "not an npz file, or not all of one",
    ),
    "truncated": (truncated, "not an npz file, or not all of one"),
    "damaged": (flipped, "cannot be read: Bad CRC-32 for file 'imgs.npy'"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_an_unreadable_file_is_one_line_of_error(demo, here, capsys, case):
    make, message = UNREADABLE[case]
    make(here / "data.npz")
    assert demo.main.main(["--data", "data.npz"]) == 1
    assert capsys.readouterr() == ("", f"tcdecomp demo: error: data.npz: {message}\n")


# ------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize(("size", "batch_size", "steps"), [(12, 4, 7), (13, 4, 7), (5, 5, 3)])
def test_batches_are_distinct_images_of_one_order_after_another(
    demo, squares, size, batch_size, steps
):
    few = demo.images.Images(squares.pixels[:size], np.arange(size)[:, None], ("image",))

    def drawn(seed):
        return [labels.flatten().tolist() for _, labels in demo.models.batches(few, *sizes, seed)]

    sizes = batch_size, steps
    batches = drawn(0)
    assert [len(batch) for batch in batches] == [batch_size] * steps
    per_order = size // batch_size
    for start in range(0, steps, per_order):
        together = list(chain.from_iterable(batches[start : start + per_order]))
        assert len(set(together)) == len(together)
        assert set(together) <= set(range(size))
    assert drawn(0) == batches != drawn(1)


def test_the_loader_pairs_images_with_their_factors(demo, squares):
    cells = {tuple(row): n for n, row in enumerate(squares.factors.tolist())}
    for images, factors in demo.models.batches(squares, 128, 3, seed=0):
        items = [cells[tuple(row)] for row in factors.tolist()]
        assert torch.equal(images, squares.flat()[items])


# ------------------------------------------------------------------------------------- figures


@pytest.fixture(scope="module")
def trained(demo, squares):
    """A TCVAE that has learned something, and its figures."""
    recipe = demo.models.Recipe(150, batch_size=128, lr=4e-3, width=64, latents=4, samples=4096)
    model = demo.models.train("test", TCDecomposition(beta=6), squares, recipe, seed=0)
    return model, demo.models.evaluate(model, squares, recipe)


def measured(demo, model, images, samples):
    recipe = demo.models.Recipe(1, 1, 1, samples=samples)
    return demo.models.evaluate(model, images, recipe)


def test_the_terms_sum_to_the_closed_form_kl(trained):
    _, figures = trained
    total = figures.index_code_mi + figures.total_correlation + figures.dimension_wise_kl
    assert figures.kl > 1
    assert total == pytest.approx(figures.kl, abs=1e-4)


def test_more_samples_change_no_printed_digit(demo, squares, trained):
    model, _ = trained
    used, more = (measured(demo, model, squares, rounds * 512) for rounds in (64, 400))
    for key in ("index_code_mi", "total_correlation", "dimension_wise_kl"):
        assert getattr(used, key) == pytest.approx(getattr(more, key), abs=0.005)
    assert used.reconstruction == pytest.approx(more.reconstruction, abs=0.05)
    assert used.error < 0.005


def test_the_figures_stay_above_what_is_possible(squares, trained):
    _, figures = trained
    assert figures.reconstruction > squares.floor
    assert figures.index_code_mi < math.log(512)
    assert 0 <= figures.mig <= 1


# -------------------------------------------------------------------------------- table, words


def figures_of(demo, mig, kl=7.7):
    gap = mutual_info_gap(np.eye(2), [0, 1])
    figures = demo.models.Figures(5.75, 1.782, 0.168, kl, 13.66, gap, 0.00123)
    return SimpleNamespace(**vars(figures), mig=mig)


def test_the_table_of_one_seed(demo):
    results = {"VAE": [figures_of(demo, 0.094)], "beta-TCVAE": [figures_of(demo, 0.8, 10)]}
    assert demo.comparison.table(results).splitlines() == [
        "            index-code MI  total corr.  dim.-wise KL     KL  reconstr.   MIG",
        "----------------------------------------------------------------------------",
        "VAE                  5.75         1.78          0.17   7.70       13.7  0.09",
        "beta-TCVAE           5.75         1.78          0.17  10.00       13.7  0.80",
    ]


def test_the_table_of_several_seeds_shows_mean_and_standard_deviation(demo):
    runs = [figures_of(demo, mig) for mig in (0.7, 0.8, 0.9)]
    last = demo.comparison.table({"VAE": runs}).splitlines()[-1]
    assert last.endswith("7.70 (0.00)  13.7 (0.0)  0.80 (0.10)")


def test_the_notes_say_how_exact_the_terms_are(demo, squares):
    _, recipe = demo.models.prepare(None, quick=False, steps=None)
    one = demo.comparison.notes(squares, recipe, {"VAE": [figures_of(demo, 0.1)]})
    assert one.replace("\n", " ") == (
        "In nats per image: terms over all 512 images from 32,768 samples, standard error up to "
        "0.0012; reconstruction loss (at best 10.4: the pixels are grey). MIG of the posterior "
        "means in 20 bins."
    )
    three = demo.comparison.notes(squares, recipe, {"VAE": [figures_of(demo, 0.1)] * 3})
    assert three.startswith("In nats per image, mean (sd) over 3 seeds: terms over all 512 images")


@pytest.mark.parametrize(
    ("champion", "rival", "words"),
    [
        ([0.8], [0.6], "has the highest MIG."),
        ([0.6], [0.8], "does not have the highest MIG."),
        ([0.801], [0.799], "does not have the highest MIG."),  # no difference in the table
        ([0.8, 0.6, 0.7], [0.6, 0.7, 0.1], "has the highest MIG in 2 of 3 seeds."),
    ],
)
def test_the_verdict_says_no_more_than_the_table(demo, champion, rival, words):
    results = {
        name: [figures_of(demo, mig) for mig in migs]
        for name, migs in (("VAE", rival), ("beta-TCVAE", champion))
    }
    shown, hidden = demo.comparison.verdict(results).split("\nNot shown: ")
    assert shown == f"Shown: on these images, at these weights, beta-TCVAE {words}"
    assert ("--seeds 0-7" in hidden) == (len(champion) == 1)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ((1, 1, 1), "reconstruction + MI + TC + DWKL"),
        ((6, 6, 6), "reconstruction + 6 MI + 6 TC + 6 DWKL"),
        ((1, 6, 1), "reconstruction + MI + 6 TC + DWKL"),
    ],
)
def test_the_objective_in_words(demo, weights, words):
    assert demo.comparison.objective(*weights) == words


# --------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0", [0]),
        ("0-7", list(range(8))),
        ("0,3,5", [0, 3, 5]),
        ("5,0-2", [5, 0, 1, 2]),
        ("1,0-2", [1, 0, 2]),
        ("4-4", [4]),
    ],
)
def test_seeds(demo, text, seeds):
    assert demo.main.parse(["--seeds", text]).seeds == seeds


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", ""], "argument --seeds: seeds must be like 0-7 or 0,3,5; got ''"),
        (["--seeds", "0-"], "argument --seeds: seeds must be like 0-7 or 0,3,5; got '0-'"),
        (["--seeds", "1,,2"], "argument --seeds: seeds must be like 0-7 or 0,3,5; got '1,,2'"),
        (["--seeds", "one"], "argument --seeds: seeds must be like 0-7 or 0,3,5; got 'one'"),
        (["--seeds", "1-2-3"], "argument --seeds: seeds must be like 0-7 or 0,3,5; got '1-2-3'"),
        (["--seeds", "7-0"], "argument --seeds: a range of seeds must rise; got '7-0'"),
        (["--steps", "0"], "argument --steps: steps must be a whole number from 1; got '0'"),
        (["--steps", "1.5"], "argument --steps: steps must be a whole number from 1; got '1.5'"),
        (["quick"], "unrecognized arguments: quick"),
    ],
)
def test_bad_arguments(demo, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        demo.main.parse(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: {message}\n")


def test_an_output_folder_that_cannot_be_made(demo, here, capsys):
    (here / "taken").touch()
    assert demo.main.main(["--output", "taken"]) == 1
    assert capsys.readouterr().err == "tcdecomp demo: error: [Errno 17] File exists: 'taken'\n"


def run_without(packages, arguments):
    """Run the demo in an interpreter that does not find the packages."""
    code = f"""
        import sys
        from importlib.machinery import PathFinder

        class Finder(PathFinder):
            @classmethod
            def find_spec(cls, name, path=None, target=None):
                return None if name in {packages!r} else super().find_spec(name, path, target)

        sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
        from tcdecomp.demo.__main__ import main
        sys.exit(main({arguments!r}))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("package", ["lightning", "matplotlib"])
def test_what_is_not_installed_is_one_line_of_error_that_names_the_extra(here, package):
    done = run_without([package], ["--steps", "1"])
    install = "pip install 'tcdecomp[demo]'"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"tcdecomp demo: error: {package} is not installed: {install}\n"
    assert list(here.iterdir()) == []


def test_help_needs_neither():
    done = run_without(["lightning", "matplotlib"], ["--help"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: tcdecomp demo [-h] [--quick]")


def test_the_demo_is_run_as_a_module(demo, here):
    command = [
        sys.executable,
        "-m",
        "tcdecomp.demo",
        "--steps",
        "3",
        "--quick",
        "--output",
        "out/put",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    run = subprocess.run(command, capture_output=True, env=environment, check=False)
    output, progress = run.stdout.decode(), run.stderr.decode()
    assert run.returncode == 0, progress
    lines = output.splitlines()
    assert lines[0] == "512 images of 16x16; factors: size (8), x (8), y (8)"
    assert lines[1].startswith("3 steps of 128 images per model; Adam 0.004 ")
    header = "index-code MI total corr. dim.-wise KL KL reconstr. MIG"
    assert " ".join(lines[3].split()) == header
    assert [line.split()[0] for line in lines[5:8]] == ["VAE", "beta-VAE", "beta-TCVAE"]
    assert lines[-1] == f"Picture: {Path('out/put/picture.png')}"
    # Nothing but progress is said on stderr, and nothing but the picture is left behind.
    assert re.findall(r"([\w-]+), seed 0: 100%[^\n]*\n", progress) == list(demo.comparison.MODELS)
    assert progress.count("\n") == 3
    assert [path for path in here.rglob("*") if path.is_file()] == [here / "out/put/picture.png"]
    assert (here / "out/put/picture.png").read_bytes().startswith(b"\x89PNG")


def test_several_seeds_of_dsprites_give_the_same_output_twice(demo, here, capsys):
    np.savez(here / "data.npz", **dsprites_arrays())
    command = ["--data", "data.npz", "--quick", "--steps", "2", "--seeds", "3,1"]
    assert demo.main.main(command) == 0
    first = capsys.readouterr().out
    assert demo.main.main(command) == 0
    assert capsys.readouterr().out == first
    assert first.startswith("144 images of 8x8; factors: shape (3), scale (2), orientation (4), x")
    assert re.search(r"^beta-TCVAE .* \d\.\d\d \(\d\.\d\d\)$", first, re.MULTILINE)
    assert re.search(r"beta-TCVAE has the highest MIG in [012] of 2 seeds\.", first)
    assert (here / "tcdecomp-demo" / "picture.png").stat().st_size > 10_000


# --------------------------------------------------------------------------------- the claim


def test_beta_tcvae_disentangles_where_the_vae_does_not(demo, squares):
    _, quick = demo.models.prepare(None, quick=True, steps=None)
    mig = {}
    for name in ("VAE", "beta-TCVAE"):
        alpha, beta, gamma = demo.comparison.MODELS[name]
        criterion = TCDecomposition(alpha=alpha, beta=beta, gamma=gamma)
        model = demo.models.train(name, criterion, squares, quick, seed=0)
        mig[name] = measured(demo, model, squares, 512).mig
    assert mig["beta-TCVAE"] - mig["VAE"] > 0.2
