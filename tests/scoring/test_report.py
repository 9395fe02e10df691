"""Report: what it prints, exports and draws, and what it needs for that."""

import dataclasses
import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tcdecomp import disentanglement_report, score

SIZE, DIM = 60, 5
TERMS = ("kl", "index_code_mi", "total_correlation", "dimension_wise_kl")
GROUPS = ("tc_active", "tc_passive", "tc_between")


def posteriors(dim=DIM):
    """Return posteriors with two active latents, and factors that show in them."""
    factors = torch.stack([torch.arange(SIZE) % 4, torch.arange(SIZE) // 4 % 3], 1)
    g = torch.Generator().manual_seed(0)
    mu = 0.01 * torch.randn(SIZE, dim, generator=g, dtype=torch.float64)
    mu[:, :2] += factors
    logvar = torch.zeros_like(mu)
    logvar[:, :2] = -3.0
    return (mu, logvar), factors


MOMENTS, FACTORS = posteriors()
WHOLE = score(MOMENTS, factors=FACTORS, num_samples=200)
WITHOUT_FACTORS = score(MOMENTS, num_samples=200)
CODES = score(MOMENTS[0], factors=FACTORS)
CODES_ALONE = score(MOMENTS[0])
REPORTS = {
    "whole": WHOLE,
    "without factors": WITHOUT_FACTORS,
    "codes": CODES,
    "codes alone": CODES_ALONE,
}


# Printed


def numbers(line):
    return [float(number) for number in re.findall(r"-?\d+\.\d+", line)]


def test_the_table_has_every_number():
    heading, terms, latents, mig, scores = str(WHOLE).split("\n\n")
    assert heading == "60 items, 2 of 5 latents active (variance of means above 0.01)"
    want = WHOLE.terms
    for line, name in zip(terms.splitlines()[1:4], TERMS, strict=False):
        value, error = getattr(want.terms, name).item(), getattr(want.standard_error, name).item()
        assert numbers(line) == pytest.approx([value, error], abs=5.1e-5)
    for line, pair in zip(terms.splitlines()[4:7], WHOLE.grouped_tc, strict=True):
        assert line.startswith("  ")
        assert numbers(line) == pytest.approx(pair, abs=5.1e-5)
    for j, line in enumerate(latents.splitlines()[1:]):
        assert line.split()[0] == f"z{j}"
        assert numbers(line) == pytest.approx([WHOLE.latent_kl[j], WHOLE.variance[j]], abs=5.1e-5)
        assert line.split()[-1] == ("yes" if j < 2 else "no")
    assert mig.startswith(str(WHOLE.mig))
    *_, active, densities = mig.splitlines()
    assert active == f"MIG {WHOLE.mig_active.score:.4f} over the active latents alone"
    assert densities.startswith(f"density MIG {WHOLE.density_mig.score:.4f}, of the posterior")
    header, *lines = scores.splitlines()
    assert header.split() == ["score", "value", "better"]
    for line, interval in zip(lines, WHOLE.disentanglement.scores.values(), strict=True):
        assert numbers(line) == pytest.approx([interval.value], abs=5.1e-5)


@pytest.mark.parametrize("kind", REPORTS)
def test_columns_stand_one_above_another(kind):
    for table in str(REPORTS[kind]).split("\n\n")[1:3]:
        if not table.startswith(("MIG", "no terms")):
            assert len({len(line) for line in table.splitlines()}) == 1


def test_what_there_is_not_is_not_printed():
    *others, last = str(WITHOUT_FACTORS).split("\n\n")
    assert last == "no MIG: no factors were given"
    assert "MIG" not in "".join(others)
    assert "nats   " not in str(CODES)
    assert str(CODES).split("\n\n")[1].startswith("no terms: codes without log-variances")
    assert str(CODES).split("\n\n")[2].split() == [
        *("latent", "variance", "active"),
        *(word for j in range(DIM) for word in _row(j)),
    ]
    everyone = score(MOMENTS[0][:, :2], factors=FACTORS)
    assert "alone" not in str(everyone)


def _row(j):
    return f"z{j}", f"{CODES.variance[j]:.4f}", "yes" if j < 2 else "no"


def test_of_many_latents_those_of_the_largest_kl_are_printed():
    (mu, logvar), _ = posteriors(30)
    logvar[:, 25] = -2.0
    text = str(score((mu, logvar), num_samples=200)).split("\n\n")[2].splitlines()
    names = [line.split()[0] for line in text[1:-1]]
    assert len(names) == 20
    assert {"z0", "z1", "z25"} < set(names)
    assert names == sorted(names, key=lambda name: int(name[1:]))
    assert text[-1] == "... and 10 with smaller kl"


def mig_line(report):
    (line,) = [line for line in str(report).splitlines() if line.startswith("MIG ")]
    return line


def test_a_mig_of_latents_that_are_not_active_says_so():
    (mu, logvar), factors = posteriors()
    report = score((1e-6 * mu, torch.zeros_like(mu)), factors=factors, num_samples=200)
    assert mig_line(report).endswith(", but no latent is active")
    assert report.mig.score > 0.5
    mu[:, 1] *= 1e-6
    report = score((mu, logvar), factors=factors, num_samples=200)
    line = str(report).split("\n\n")[-2].splitlines()[0]
    assert line.endswith(", but the best latent of 'v1' is not active")
    everyone = score(mu[:, :1], factors=factors[:, 0])
    assert mig_line(everyone) == f"MIG {everyone.mig.score:.4f} (information in nats)"


@pytest.mark.parametrize(("logvar", "near"), [(-12.0, True), (0.0, False)])
def test_an_index_code_mi_near_log_n_says_so(logvar, near):
    mu = torch.arange(SIZE, dtype=torch.float64)[:, None]
    terms = str(score((mu, torch.full_like(mu, logvar)), num_samples=200)).split("\n\n")[1]
    told = "index-code MI is near its maximum log N = 4.0943; more items may tell more"
    assert (told in terms) == near


def test_it_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        WHOLE.items = 3


# Exported


@pytest.mark.parametrize("kind", REPORTS)
def test_json_is_the_dict_and_nothing_of_another_kind(kind, tmp_path):
    report, path = REPORTS[kind], tmp_path / "score.json"
    text = report.to_json(path)
    assert json.loads(text) == json.loads(path.read_text()) == report.to_dict()


def test_the_dict_has_every_number():
    exported = WHOLE.to_dict()
    for name in TERMS:
        assert exported[name] == getattr(WHOLE.terms.terms, name).item()
        if name != "kl":
            error = getattr(WHOLE.terms.standard_error, name).item()
            assert exported[f"{name}_error"] == error
    for name, pair in zip(GROUPS, WHOLE.grouped_tc, strict=True):
        assert (exported[name], exported[f"{name}_error"]) == pair
    assert exported["items"] == SIZE
    assert exported["num_samples"] == 200
    assert (exported["active_units"], exported["active_threshold"]) == (2, 0.01)
    assert exported["mig"] == WHOLE.mig.score
    assert exported["mig_active"] == WHOLE.mig_active.score
    assert exported["density_mig"] == WHOLE.density_mig.score
    assert exported["mcc"] == WHOLE.disentanglement.scores["mcc"].value
    assert exported["latents"] == {
        "name": [f"z{j}" for j in range(DIM)],
        "kl": WHOLE.latent_kl.tolist(),
        "variance": WHOLE.variance.tolist(),
        "is_active": [True, True, False, False, False],
    }
    assert exported["factors"]["gap"] == WHOLE.mig.gaps.tolist()
    assert exported["factors"]["best_latent"] == ["z0", "z1"]
    np.testing.assert_array_equal(exported["mutual_info"], WHOLE.mig.mutual_info)


def test_what_there_is_not_is_none():
    exported = CODES_ALONE.to_dict()
    absent = {name for name, value in exported.items() if value is None}
    errors = {f"{name}_error" for name in (*TERMS[1:], *GROUPS)}
    others = {"num_samples", "mig", "mig_active", "density_mig", "factors", "mutual_info"}
    assert absent == {*TERMS, *GROUPS, *errors, *others, "settings"}
    assert exported["latents"]["kl"] is None


def test_scores_are_those_of_a_report_of_their_own():
    options = {"n_bins": 6, "correction": "miller-madow"}
    report = score(MOMENTS[0], factors=FACTORS, mig=options, scores=["mig", "sap"])
    want = disentanglement_report(
        MOMENTS[0], FACTORS, scores=["mig", "sap"], confidence=None, **options
    )
    assert report.disentanglement.scores == {"sap": want.scores["sap"]}
    assert report.mig.score == want.scores["mig"].value
    assert report.to_dict()["settings"]["n_bins"] == "6"
    assert score(MOMENTS[0], factors=FACTORS, scores=()).disentanglement is None
    assert score(MOMENTS[0]).disentanglement is None


def test_frames_are_rows_that_go_together():
    frame = pd.concat([report.to_frame() for report in REPORTS.values()], ignore_index=True)
    assert len(frame) == len(REPORTS)
    assert frame["kl"].tolist()[:2] == [WHOLE.terms.terms.kl.item()] * 2
    assert frame["kl"].isna().tolist() == [False, False, True, True]
    assert frame["mig"].isna().tolist() == [False, True, False, True]
    assert frame.loc[0, "kl_z1"] == WHOLE.latent_kl[1]
    assert frame.loc[0, "gap_v1"] == WHOLE.mig.gaps[1]
    assert frame["variance_z4"].tolist() == pytest.approx([WHOLE.variance[4]] * 4)
    assert frame.columns.is_unique


def test_names_like_those_of_other_columns_keep_their_own():
    names = ["units", "threshold"]
    codes = pd.DataFrame(MOMENTS[0][:, :2], columns=names)
    frame = score(codes, factors=pd.DataFrame(FACTORS, columns=names)).to_frame()
    assert frame.columns.is_unique
    assert frame["active_units"].item() == 2
    assert {"is_active_units", "gap_units", "best_latent_threshold"} < set(frame.columns)


# Drawn


PANELS = {"whole": 3, "without factors": 2, "codes": 2, "codes alone": 1}


@pytest.mark.parametrize("kind", REPORTS)
def test_pictures(kind, tmp_path):
    figure = REPORTS[kind].plot()
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert len(titles) == PANELS[kind]
    figure.savefig(tmp_path / "score.png")
    assert (tmp_path / "score.png").stat().st_size > 5000


def test_bars_and_cells_are_the_numbers():
    terms, latents, matrix = WHOLE.plot().axes[:3]
    estimates = WHOLE.estimates()
    widths = [bar.get_width() for bar in terms.patches]
    assert widths == [pair.value for pair in estimates.values()]
    labels = [float(text.get_text()) for text in terms.texts]
    assert labels == pytest.approx(widths, abs=0.0051)
    assert not any(text.get_text().startswith("-0.00") for text in terms.texts)
    assert [bar.get_height() for bar in latents.patches] == pytest.approx(WHOLE.latent_kl)
    assert [text.get_text() for text in latents.get_legend().get_texts()] == ["active", "passive"]
    shares = WHOLE.mig.mutual_info / WHOLE.mig.factor_entropy
    np.testing.assert_allclose(matrix.images[0].get_array(), shares, rtol=1e-12)


@pytest.mark.parametrize("threshold", [0, 10])
def test_a_legend_stands_only_where_both_kinds_do(threshold):
    axes = score(MOMENTS[0], active_threshold=threshold).plot().axes[0]
    assert axes.get_legend() is None
    assert WHOLE.plot().axes[1].get_legend().get_frame().get_alpha() == 0.9


@pytest.mark.parametrize(
    ("dim", "factors", "written"), [(20, 8, True), (21, 2, False), (2, 9, False)]
)
def test_numbers_are_written_where_they_can_be_read(dim, factors, written):
    report = score(posteriors(dim)[0][0], factors=FACTORS[:, :1].expand(-1, factors))
    assert len(report.plot().axes[1].texts) == (dim * factors if written else 0)


def extents(figure, texts):
    renderer = FigureCanvasAgg(figure).get_renderer()
    return [text.get_window_extent(renderer) for text in texts]


@pytest.mark.parametrize("dim", [2, 10, 20, 64])
@pytest.mark.parametrize("factors", [FACTORS, None])
def test_no_label_meets_another_or_leaves_its_panel(dim, factors):
    (mu, logvar), _ = posteriors(dim)
    figure = score((5 * mu, logvar), factors=factors, num_samples=200).plot()
    FigureCanvasAgg(figure).draw()
    terms = figure.axes[0]
    edge = terms.get_window_extent().x1
    assert all(box.x1 < edge for box in extents(figure, terms.texts))
    for axes in figure.axes[1:]:
        boxes = extents(figure, axes.get_xticklabels())
        assert not any(map(lambda a, b: a.overlaps(b), boxes, boxes[1:]))


LONG = [
    "orientation of the left wrist in degrees of arc",
    "the colour of the object, as it was annotated in the second round of annotation",
]


@pytest.mark.parametrize("dim", [2, 12, 64])
def test_long_names_leave_room_for_the_panels(dim):
    (mu, logvar), factors = posteriors(dim)
    frame = pd.DataFrame(factors, columns=LONG)
    codes = pd.DataFrame(mu, columns=[f"{LONG[0]}, {j}" for j in range(dim)])
    for report in (score((mu, logvar), factors=frame, num_samples=200), score(codes, None, frame)):
        figure = report.plot()
        FigureCanvasAgg(figure).draw()
        height = figure.get_window_extent().height
        assert all(axes.get_window_extent().height > height / 3 for axes in figure.axes)
        labels = [text.get_text() for axes in figure.axes for text in axes.get_xticklabels()]
        assert {"orienta…of arc", "the col…tation"} < set(labels)


def test_into_a_figure_of_ones_own():
    figure = Figure()
    assert WHOLE.plot(figure) is figure
    assert len(figure.axes) == 4  # with the colour bar's


def test_what_is_no_figure():
    with pytest.raises(TypeError, match=r"figure must be .* got str\. report"):
        WHOLE.plot("score.png")


def test_many_latents_are_numbered():
    (mu, logvar), factors = posteriors(70)
    _, latents, matrix = score((mu, logvar), factors=factors, num_samples=200).plot().axes[:3]
    assert len(latents.get_xticks()) < 20
    assert len(matrix.texts) == 0


@pytest.mark.parametrize(("method", "package"), [("plot", "matplotlib"), ("to_frame", "pandas")])
def test_without_the_extra_its_name_is_told(method, package, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"Report.{method} needs {package}, .*: pip install \"tcdecomp\[plot\]\""
    with pytest.raises(ImportError, match=message):
        getattr(WHOLE, method)()
    assert str(WHOLE)
    assert WHOLE.to_json()


def test_an_exact_value_has_no_error_bar():
    errors, *_ = WHOLE.plot().axes[0].containers
    _, _, (lines,) = errors.lines
    exact = [pair.standard_error == 0 for pair in WHOLE.estimates().values()]
    drawn = [len(segment) > 0 for segment in lines.get_segments()]
    assert exact[0]
    assert sum(drawn) == exact.count(False)


def test_large_numbers_are_short():
    logvar = torch.full((20, 2), 60.0)
    logvar[0] = -1
    report = score((torch.randn(20, 2), logvar))
    assert max(map(len, str(report).splitlines())) < 80
