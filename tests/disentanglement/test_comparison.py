"""Several models in one table."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from tcdecomp import compare, disentanglement_report, score
from tcdecomp.metrics import Interval, interval_of_mean
from tcdecomp.terms import TERM_LABELS

RNG = np.random.default_rng(0)
FACTORS = RNG.integers(0, 4, (400, 2))


def codes(mixing, seed=0):
    noise = np.random.default_rng(seed).standard_normal((400, 2))
    return FACTORS @ [[1, mixing], [-mixing, 1]] + 0.1 * noise


def report(mixing, seed=0, **options):
    return disentanglement_report(
        codes(mixing, seed), FACTORS, scores=["mig", "pairwise_information"], **options
    )


BOTH = compare({"aligned": report(0, n_resamples=4), "mixed": report(0.5, confidence=None)})
MARKED = compare({"aligned": report(0, n_resamples=4), "mixed": report(0.5, n_resamples=4)})


def test_the_table_marks_the_best_of_each_score():
    header, mig, shared, _, legend = str(MARKED).splitlines()
    assert legend == "* the best; its interval meets no other"
    assert legend in MARKED._repr_html_()
    assert header.split() == ["aligned", "mixed"]
    aligned, mixed = (numbers["mig"] for numbers in MARKED.models.values())
    half = (aligned.high - aligned.low) / 2
    cells = ["MIG", f"{aligned.value:.3f}", "+-", f"{half:.3f}*", f"{mixed.value:.3f}"]
    assert mig.split()[:5] == cells
    less = min(numbers["pairwise_information"].value for numbers in MARKED.models.values())
    assert f"{less:.3f}" in next(part for part in shared.split("  ") if part.endswith("*"))


def test_intervals_that_meet_have_no_best():
    class Model:
        def __init__(self, value, low=math.nan, high=math.nan):
            self.mig = Interval(value, low, high, math.nan)

        def numbers(self):
            return {"mig": self.mig}

    far, near, low = Model(0.9, 0.8, 1.0), Model(0.7, 0.5, 0.85), Model(0.6, 0.5, 0.7)
    assert "0.900 +- 0.100*" in str(compare({"far": far, "low": low}))
    assert "0.950 +- 0.100" in str(compare({"clipped": Model(0.95, 0.85, 1.0)}))
    assert "*" not in str(compare({"far": far, "near": near}))
    assert "*" not in str(compare({"far": far, "near": near, "low": low}))


def test_without_intervals_there_is_no_best():
    assert BOTH.models["aligned"]["mig"].low > BOTH.models["mixed"]["mig"].value
    assert "*" not in str(BOTH)


def test_equal_values_have_no_best():
    same = report(0, confidence=None)
    assert "*" not in str(compare({"a": same, "b": same}))
    assert "*" not in str(compare({"a": same}))


def test_terms_have_intervals_and_no_best():
    mu = torch.tensor(codes(0))
    one, two = (
        score((mu, torch.full_like(mu, logvar)), factors=FACTORS, num_samples=200)
        for logvar in (-3.0, -1.0)
    )
    table = compare({"sharp": one, "wide": two})
    assert table.names[:5] == [*TERM_LABELS, "mig"]
    value, error = one.estimates()["total_correlation"]
    interval = table.models["sharp"]["total_correlation"]
    assert interval[:3] == pytest.approx((value, value - 2 * error, value + 2 * error))
    (line,) = [line for line in str(table).splitlines() if line.startswith("total correlation")]
    assert "*" not in line
    assert table.models["sharp"]["mig"].value == one.mig.score


def test_seeds_are_averaged_with_the_interval_over_seeds():
    seeds = [report(0.2, seed, confidence=None) for seed in range(4)]
    table = compare({"ours": seeds, "one": seeds[:1]}, confidence=0.9)
    values = [seed.scores["mig"].value for seed in seeds]
    assert table.models["ours"]["mig"] == interval_of_mean(values, confidence=0.9)
    assert table.models["one"]["mig"].value == values[0]
    assert math.isnan(table.models["one"]["mig"].low)


def test_a_number_that_a_model_lacks_is_a_dash():
    table = compare({"a": report(0, confidence=None), "b": score(codes(0), factors=FACTORS)})
    (line,) = [line for line in str(table).splitlines() if line.startswith("MCC")]
    assert line.split()[1] == "-"


def test_a_number_that_a_seed_lacks_is_a_dash():
    words = np.array(["disc", "square", "heart", "star"])[FACTORS]
    seeds = [disentanglement_report(codes(0), v, confidence=None) for v in (FACTORS, words)]
    table = compare({"ours": seeds})
    (line,) = [line for line in str(table).splitlines() if line.startswith("MCC")]
    assert line.split() == ["MCC", "-"]
    assert math.isnan(table.models["ours"]["mcc"].value)
    assert "nan" not in table.to_latex()
    other = compare({"ours": seeds, "one": seeds[:1], "half": report(0, confidence=None)})
    assert "*" not in next(line for line in str(other).splitlines() if line.startswith("MCC"))


def test_reports_that_were_computed_differently():
    few = disentanglement_report(codes(0)[:300], FACTORS[:300], n_bins=5, confidence=None)
    many = disentanglement_report(codes(0), FACTORS, n_bins=20, confidence=None)
    table = compare({"few": few, "many": many, "default": report(0, confidence=None)})
    assert table.notes == (
        "The reports differ in items: 300 of few, 400 of many, 400 of default",
        "The reports differ in n_bins: 5 of few, 20 of many, 20 of default",
    )
    assert str(table).endswith("\n\n".join(table.notes))
    assert table.notes[1] in table._repr_html_()
    assert BOTH.notes == ()
    options = {"factors": FACTORS, "scores": ()}
    models = [score(codes(0), mig=mig, **options) for mig in ({"convention": "ubisoft"}, {})]
    assert compare(dict(zip("ab", models, strict=True))).notes == (
        "The reports differ in convention: 'ubisoft' of a, None of b",
    )
    assert compare({"both": [few, many]}).notes[0] == (
        "The reports differ in items: 300 and 400 of both"
    )


def test_the_dict_is_json_and_has_every_number(tmp_path):
    text = BOTH.to_json(tmp_path / "models.json")
    assert json.loads(text) == json.loads((tmp_path / "models.json").read_text()) == BOTH.to_dict()
    mig = BOTH.to_dict()["models"]["mixed"]["mig"]
    assert mig == {
        "value": BOTH.models["mixed"]["mig"].value,
        **dict.fromkeys(("low", "high", "standard_error")),
    }
    few = disentanglement_report(codes(0), FACTORS, n_bins=5, confidence=None)
    table = compare({"few": few, "default": report(0, confidence=None)})
    assert table.to_dict()["notes"] == list(table.notes) != []


def test_frames_and_latex():
    frame = BOTH.to_frame()
    assert frame.index.tolist() == ["aligned", "mixed"]
    assert frame.loc["aligned", "mig"] == BOTH.models["aligned"]["mig"].value
    assert frame["mig_low"].isna().tolist() == [False, True]
    assert isinstance(frame, pd.DataFrame)
    first, header, *rows, last = BOTH.to_latex().splitlines()
    assert (first, last) == (r"\begin{tabular}{lrr}", r"\end{tabular}")
    assert header == r" & MIG & pairwise MI \\ \hline"
    assert [row.split(" & ")[0] for row in rows] == ["aligned", "mixed"]
    assert [row.count(r"\pm") for row in rows] == [2, 0]
    value, low, high, _ = BOTH.models["aligned"]["mig"]
    assert rf"& ${value:.2f} \pm {(high - low) / 2:.2f}$ &" in rows[0]


def test_names_are_plain_text_in_latex():
    class Model:
        def numbers(self):
            return {"a_b": Interval(0.5, math.nan, math.nan, math.nan)}

    model = Model()
    names = {"a_b": model, "b&c 5%": model, "{x}#$": model, "~^\\": model}
    _, header, *rows, _ = compare(names).to_latex().splitlines()
    assert header == r" & a\_b \\ \hline"
    assert [row.rsplit(" & ", 1)[0] for row in rows] == [
        r"a\_b",
        r"b\&c 5\%",
        r"\{x\}\#\$",
        r"\textasciitilde{}\textasciicircum{}\textbackslash{}",
    ]


def test_html():
    html = BOTH._repr_html_()
    assert html.count("<tr>") == 3
    assert "<th>aligned</th>" in html


def test_a_panel_for_each_number():
    figure = BOTH.plot()
    FigureCanvasAgg(figure).draw()
    assert [ax.get_title() for ax in figure.axes] == ["MIG", "pairwise MI"]
    (panel,) = (ax for ax in BOTH.plot(["mig"]).axes if ax.get_title())
    texts = [float(text.get_text()) for text in panel.texts]
    values = [numbers["mig"].value for numbers in BOTH.models.values()]
    assert texts == pytest.approx(values, abs=5.1e-4)
    with pytest.raises(ValueError, match="names must be of mig, pairwise_information; got fid"):
        BOTH.plot(["fid"])
    with pytest.raises(ValueError, match="names must have at least one name; got none"):
        BOTH.plot([])


@pytest.mark.parametrize(
    ("models", "error", "text"),
    [
        ([1], TypeError, r"models must map .*, as in {.ours.: report}; got \[1\]"),
        ({}, TypeError, "models must map .*; got {}"),
        ({"a": 3}, TypeError, "models must map names to reports; got 3 for 'a'"),
        ({"a": []}, ValueError, "at least one report for 'a'; got none"),
    ],
)
def test_errors(models, error, text):
    with pytest.raises(error, match=text):
        compare(models)


def test_anything_with_numbers_can_be_compared():
    class Other:
        def numbers(self):
            return {"fid": Interval(3.0, 2.0, 4.0, 0.5)}

    assert re.search(r"^fid +3.000 \+- 1.000", str(compare({"a": Other()})), re.MULTILINE)
