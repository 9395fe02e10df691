"""Pictures: what is drawn is what the display holds, and no label leaves it."""

import subprocess
import sys
import warnings
from itertools import pairwise

import matplotlib
import matplotlib.style
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tcdecomp import disentanglement_report, metrics, mig_score, mutual_info_gap
from tcdecomp.displays import (
    ComparisonDisplay,
    GapsDisplay,
    ImportanceDisplay,
    MutualInfoDisplay,
    SampleSizeDisplay,
    TermsDisplay,
    TraversalDisplay,
)
from tcdecomp.metrics import Interval, score_interval

RNG = np.random.default_rng(0)
FACTORS = RNG.integers(0, 4, (300, 2))
CODES = FACTORS @ [[1, 0, 0], [0, 1, 0]] + 0.1 * RNG.standard_normal((300, 3))
GAP = mutual_info_gap(CODES, FACTORS, correction="miller-madow")
LOGS = [
    {"val/kl": 5.0, "val/total_correlation": 1.0},
    {
        "val/kl": 4.0,
        "val/total_correlation": 0.5,
        "val/total_correlation_low": 0.4,
        "val/total_correlation_high": 0.6,
    },
]


def decoder(z):
    """Paint the code as an image, a pixel for each latent."""
    return z[:, None, :, None].expand(-1, 1, -1, 2)


MU = torch.tensor(CODES, dtype=torch.float32)
LOGVAR = torch.tensor([-4.0, -2.0, 0.0]).expand_as(MU)
DISPLAYS = {
    "mutual information": MutualInfoDisplay(GAP),
    "importance": ImportanceDisplay(np.abs(RNG.standard_normal((3, 2)))),
    "gaps": GapsDisplay(
        {"shape": Interval(0.5, 0.4, 0.6, 0.05), "size": Interval(0.2, *[np.nan] * 3)}
    ),
    "sample size": SampleSizeDisplay([10, 100], [Interval(0.5, 0.4, 0.6, 0.05)] * 2, "MIG"),
    "comparison": ComparisonDisplay({"VAE": Interval(0.5, 0.4, 0.6, 0.05)}, "MIG"),
    "terms": TermsDisplay.from_logs(LOGS, prefix="val/"),
    "traversals": TraversalDisplay.from_decoder(decoder, MU, LOGVAR),
}


@pytest.mark.parametrize("kind", DISPLAYS)
def test_into_a_new_figure_or_given_axes(kind, tmp_path):
    display = DISPLAYS[kind]
    assert display.plot() is display
    display.figure_.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 2000
    axes = Figure().subplots()
    assert display.plot(axes).ax_ is axes


@pytest.mark.parametrize("kind", DISPLAYS)
def test_without_matplotlib_the_extra_is_named(kind, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"Display.plot needs matplotlib, .*tcdecomp\[plot\]"):
        DISPLAYS[kind].plot()


REPORT = disentanglement_report(CODES, FACTORS, scores=["mig"], correction="miller-madow")
SQUARE = torch.zeros(4, 2)
NOT_INTERVALS = "must hold values of type tcdecomp.metrics.Interval; got float"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: MutualInfoDisplay(REPORT),
            TypeError,
            "gap must be of type MutualInfoGap; got Dis",
        ),
        (lambda: MutualInfoDisplay(0.5), TypeError, "got float. mutual_info_gap.* returns one"),
        (lambda: MutualInfoDisplay(GAP).plot(Figure()), TypeError, "ax must .* Axes; got Figure"),
        (lambda: ImportanceDisplay(np.ones(3)), ValueError, r"importance must be .* shape \(3,\)"),
        (
            lambda: ImportanceDisplay(metrics.DCI(1.0, 1.0, 1.0, 1.0, np.eye(3))),
            TypeError,
            "got DCI. Pass its attribute importance",
        ),
        (lambda: GapsDisplay(GAP), TypeError, "gaps must be of type Mapping; got MutualInfoGap"),
        (lambda: GapsDisplay({"a": 0.3}), TypeError, f"gaps {NOT_INTERVALS}"),
        (lambda: ComparisonDisplay(REPORT), TypeError, "models must be .* Mapping; got Disent"),
        (lambda: ComparisonDisplay({"a": 0.3}), TypeError, f"models {NOT_INTERVALS}. compare"),
        (lambda: SampleSizeDisplay([9], [0.3]), TypeError, f"scores {NOT_INTERVALS}"),
        (lambda: TermsDisplay([0, 1], [1, 2]), TypeError, "values must be .* Mapping; got list"),
        (lambda: TermsDisplay.from_logs({"kl": [1]}), TypeError, "each of records .* got str"),
        (lambda: TraversalDisplay(CODES, [0], [1.0], [0.0]), ValueError, r"images .* \(300, 3\)"),
        (lambda: TraversalDisplay.from_decoder(3, MU, LOGVAR), TypeError, "decoder .* got int"),
        (lambda: TraversalDisplay.from_decoder(decoder, CODES, LOGVAR), TypeError, "mu must be a"),
        (
            lambda: TraversalDisplay.from_decoder(decoder, SQUARE, SQUARE, item=4),
            ValueError,
            "item must be below the number of items, 4; got 4",
        ),
        (
            lambda: TraversalDisplay.from_decoder(lambda z: (z, z), SQUARE, SQUARE),
            ValueError,
            "here with M = 14; got tuple. to_images= converts",
        ),
        (
            lambda: TraversalDisplay.from_decoder(lambda z: z[:1, None], SQUARE, SQUARE),
            ValueError,
            r"here with M = 14; got shape \(1, 1, 2\)",
        ),
    ],
)
def test_objects_of_another_kind(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_importing_the_displays_imports_no_matplotlib():
    code = "import sys, tcdecomp.displays; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def rectangles(axes):
    return [patch for patch in axes.patches if patch.get_width() < 2]


def test_best_latents_and_runners_up_are_outlined():
    axes = MutualInfoDisplay(GAP).plot().ax_
    shares = GAP.mutual_info / GAP.factor_entropy
    np.testing.assert_allclose(axes.images[0].get_array(), shares, rtol=1e-12)
    centres = [
        (round(p.get_y() + p.get_height() / 2), round(p.get_x() + p.get_width() / 2))
        for p in rectangles(axes)
    ]
    best = [(int(j), k) for k, j in enumerate(GAP.best_latent)]
    others = [(int(j), k) for k, j in enumerate(GAP.runner_up)]
    assert centres == best + others


@pytest.mark.parametrize("option", [{"correction": "adjusted"}, {"convention": "ubisoft"}])
def test_the_shares_that_are_drawn_have_the_gaps_of_the_score(option):
    codes = FACTORS @ [[1, 0.4, 0], [0.3, 1, 1]] + 0.5 * RNG.standard_normal((300, 3))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* rows are few")
        gap = mutual_info_gap(codes, FACTORS, **option)
    drawn = np.sort(MutualInfoDisplay(gap).plot().ax_.images[0].get_array(), axis=0)
    np.testing.assert_allclose(drawn[-1] - drawn[-2], gap.gaps, rtol=1e-12)


def test_the_area_of_a_square_is_a_share_of_the_importance():
    importance = np.array([[3.0, 0.0], [1.0, 2.0]])
    axes = ImportanceDisplay(importance).plot().ax_
    areas = [p.get_width() * p.get_height() / 0.95**2 for p in rectangles(axes)]
    assert areas == pytest.approx([0.75, 0.0, 0.25, 1.0])


def test_gaps_have_the_intervals_of_their_scores():
    options = {"n_resamples": 4, "random_state": 0, "correction": "miller-madow"}
    display = GapsDisplay.from_codes(CODES, FACTORS, **options)
    assert list(display.gaps) == ["v0", "v1"]
    values = [interval.value for interval in display.gaps.values()]
    assert values == pytest.approx(GAP.gaps.tolist())
    whole = score_interval(mig_score, CODES, FACTORS, **options)
    assert np.mean([interval.low for interval in display.gaps.values()]) < whole.value
    assert [bar.get_height() for bar in display.plot().ax_.patches] == pytest.approx(values)


def test_intervals_of_gaps_stay_between_0_and_1():
    options = {"n_resamples": 4, "random_state": 0, "correction": "miller-madow"}
    display = GapsDisplay.from_codes(CODES, FACTORS, confidence=1 - 1e-15, **options)
    assert max(interval.high for interval in display.gaps.values()) == 1
    assert min(interval.low for interval in display.gaps.values()) >= 0


def test_a_score_at_each_sample_size():
    display = SampleSizeDisplay.from_codes(mig_score, CODES, FACTORS, n_resamples=4)
    assert display.sizes[0] == 50
    assert display.sizes[-1] == 300
    last = display.scores[-1]
    with pytest.warns(UserWarning, match="rows are few"):
        assert last.value == pytest.approx(mig_score(CODES, FACTORS))
    assert last.standard_error == pytest.approx(0, abs=1e-12)
    assert display.scores[0].standard_error > 0
    assert display.plot().ax_.get_title() == "mig_score by sample size"


def test_sizes_whose_subsets_lack_a_rare_value_have_no_point():
    rare = np.column_stack([FACTORS, np.arange(300) == 7])
    options = {"n_resamples": 10, "correction": "miller-madow"}
    with pytest.warns(UserWarning, match="no point at 20 rows: .* got one in 'v2'"):
        display = SampleSizeDisplay.from_codes(mig_score, CODES, rare, sizes=[20, 300], **options)
    small, whole = display.scores
    assert np.isnan(small).all()
    assert whole.value == pytest.approx(mig_score(CODES, rare, correction="miller-madow"))
    assert display.plot().ax_.get_title() == "mig_score by sample size"
    with pytest.raises(ValueError, match="n_bins"):
        SampleSizeDisplay.from_codes(mig_score, CODES, FACTORS, n_bins=1)
    assert set(GapsDisplay.from_codes(CODES, rare, n_resamples=4).gaps) == {"v0", "v1", "v2"}


@pytest.mark.parametrize(
    ("score", "options", "error", "message"),
    [
        (mig_score, {"sizes": [50, 5000]}, ValueError, "sizes must be from 1 to .* 300; got 5000$"),
        (mig_score, {"sizes": [0]}, ValueError, "sizes must be .*; got 0$"),
        (mig_score, {"n_resamples": 1}, ValueError, "n_resamples must be an int >= 2; got 1"),
        ("mig", {}, TypeError, "score must be a function, such as tcdecomp.mig_score; got 'mig'"),
    ],
)
def test_arguments_of_sample_sizes(score, options, error, message):
    with pytest.raises(error, match=message):
        SampleSizeDisplay.from_codes(score, CODES, FACTORS, **options)


def test_logs_are_read_with_gaps_and_brackets():
    display = DISPLAYS["terms"]
    assert list(display.steps) == [0, 1]
    assert display.values["kl"] == [5.0, 4.0]
    assert np.isnan(display.values["total_correlation_low"][0])
    axes = display.plot().ax_
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "KL",
        "total correlation",
    ]
    assert len(axes.collections) == 1


def test_logs_without_terms():
    logs = [{"val/kl": 5.0}, {"loss": 1.0}]
    with pytest.raises(ValueError, match=r"such as .train/kl.; got the keys val/kl, loss"):
        TermsDisplay.from_logs(logs, prefix="train/")
    with pytest.raises(ValueError, match="got the keys none"):
        TermsDisplay.from_logs([])


def test_traversals_are_ordered_by_kl_and_move_one_latent_each():
    display = TraversalDisplay.from_decoder(decoder, MU, LOGVAR, item=3, steps=5, rows=2)
    kl = 0.5 * (MU.square() + LOGVAR.exp() - 1 - LOGVAR).mean(0)
    assert display.latents == kl.argsort(descending=True)[:2].tolist()
    assert display.kl == pytest.approx(sorted(kl.tolist(), reverse=True)[:2])
    assert display.images.shape == (2, 5, 3, 2)
    for row, latent in enumerate(display.latents):
        want = MU[3].repeat(5, 1)
        want[:, latent] = torch.linspace(-2, 2, 5)
        np.testing.assert_allclose(display.images[row, :, :, 0], want)
    labels = [text.get_text() for text in display.plot().ax_.get_yticklabels()]
    assert labels == [f"z{j}  ({k:.2f})" for j, k in zip(display.latents, display.kl, strict=True)]


def test_colour_images_and_outputs_that_must_be_converted():
    def colour(z):
        return z[:, :3, None, None].sigmoid().expand(-1, 3, 4, 4)

    assert TraversalDisplay.from_decoder(colour, MU, LOGVAR).images.shape == (3, 7, 4, 4, 3)
    with pytest.raises(ValueError, match=r"got shape \(21, 3\). to_images= converts its output"):
        TraversalDisplay.from_decoder(lambda z: z, MU, LOGVAR)
    for width in (3, 4):
        with pytest.raises(ValueError, match=rf"got shape \(21, 2, 5, {width}\)"):
            TraversalDisplay.from_decoder(
                lambda z, w=width: z.new_zeros(len(z), 2, 5, w), MU, LOGVAR
            )
    display = TraversalDisplay.from_decoder(
        lambda z: z, MU, LOGVAR, to_images=lambda output: output[:, None].expand(-1, 2, -1)
    )
    assert display.images.shape == (3, 7, 2, 3)


LONG = "orientation of the left wrist in degrees of arc"


@pytest.mark.parametrize("dim", [3, 20, 64])
@pytest.mark.parametrize("name", ["v", LONG])
def test_names_leave_room_for_the_picture(dim, name):
    shares = RNG.random((dim, 3))
    names = tuple(f"{name} {k}" for k in range(3))
    latents = tuple(f"{name} z{j}" for j in range(dim))
    display = ImportanceDisplay(shares, latents, names).plot()
    FigureCanvasAgg(display.figure_).draw()
    box, whole = display.ax_.get_window_extent(), display.figure_.get_window_extent()
    assert box.height > whole.height / 3
    assert box.width > min(whole.width / 3, 3 * 0.12 * display.figure_.dpi)


def test_a_figure_of_its_own_grows_until_all_latents_have_names():
    codes = RNG.standard_normal((300, 64))
    gap = mutual_info_gap(codes, FACTORS, correction="miller-madow")
    for display in (MutualInfoDisplay(gap), ImportanceDisplay(gap.mutual_info)):
        FigureCanvasAgg(display.plot().figure_).draw()
        labels = display.ax_.get_yticklabels()
        assert [label.get_text() for label in labels] == [f"z{j}" for j in range(64)]
        boxes = [label.get_window_extent() for label in labels]
        assert not any(a.overlaps(b) for a, b in pairwise(boxes))
    assert len(rectangles(MutualInfoDisplay(gap).plot().ax_)) == 4
    assert not rectangles(MutualInfoDisplay(gap).plot(Figure().subplots()).ax_)


def test_squares_are_square():
    display = ImportanceDisplay(np.eye(5, 2)).plot()
    FigureCanvasAgg(display.figure_).draw()
    box = display.ax_.get_window_extent()
    assert box.height / box.width == pytest.approx(5 / 2)


def test_intervals_have_the_colour_of_the_style():
    with matplotlib.style.context("dark_background"):
        _, _, (bars,) = DISPLAYS["gaps"].plot().ax_.containers[0].lines
    np.testing.assert_array_equal(bars.get_color(), [[1, 1, 1, 1]])
