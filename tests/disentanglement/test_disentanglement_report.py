"""Several scores as one report: each is the score itself; tables, exports, intervals, errors."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch

from tcdecomp import density_mig_score, disentanglement_report, metrics
from tcdecomp.disentanglement import scores as registry

RNG = np.random.default_rng(0)
FACTORS = RNG.integers(0, 4, (600, 2))
CODES = FACTORS @ [[1, 0, 0], [0.3, 1, 0]] + 0.2 * RNG.standard_normal((600, 3))
PLAIN = {"confidence": None}
QUICK = {"n_resamples": 5}
LOGVAR = np.broadcast_to([-4.0, -2.0, 0.0], CODES.shape)
ALL = disentanglement_report(CODES, FACTORS, scores="all", logvar=LOGVAR, **PLAIN)
FAST = disentanglement_report(CODES, FACTORS, **QUICK)


# What is computed


BY_HAND = {
    "mig": lambda: metrics.mig_score(CODES, FACTORS),
    "density_mig": lambda: density_mig_score(*map(torch.tensor, (CODES, LOGVAR)), FACTORS),
    "mig_sup": lambda: metrics.mig_sup_score(CODES, FACTORS),
    "dcimig": lambda: metrics.dcimig_score(CODES, FACTORS),
    "jemmig": lambda: metrics.jemmig_score(CODES, FACTORS),
    "modularity": lambda: metrics.modularity_score(CODES, FACTORS),
    "mcc": lambda: metrics.mcc_score(CODES, FACTORS),
    "linear_r2": lambda: metrics.linear_r2_score(CODES, FACTORS, random_state=0),
    "pairwise_information": lambda: metrics.pairwise_information_score(CODES),
    "explicitness": lambda: metrics.explicitness_score(CODES, FACTORS, random_state=0),
    "sap": lambda: metrics.sap_score(CODES, FACTORS, random_state=0),
    "irs": lambda: metrics.irs_score(CODES, FACTORS),
    "factor_vae": lambda: metrics.factor_vae_score(CODES, FACTORS, random_state=0),
    "beta_vae": lambda: metrics.beta_vae_score(CODES, FACTORS, random_state=0),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_each_number_is_the_score_itself(name):
    assert ALL.scores[name].value == pytest.approx(BY_HAND[name](), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "score", "options"),
    [("dci", metrics.dci_score, {"random_state": 0}), ("infomec", metrics.infomec_score, {})],
)
def test_each_part_of_a_score_is_its_own_number(name, score, options):
    result = score(CODES, FACTORS, **options)
    parts = {key: v for key, v in ALL.scores.items() if key.startswith(f"{name}_")}
    assert len(parts) == 3
    for key, interval in parts.items():
        assert interval.value == getattr(result, key.removeprefix(f"{name}_"))


def test_every_score_has_a_label_and_a_sentence_and_is_exported_by_metrics():
    numbers = [
        key
        for name, (_, fields) in registry.SCORES.items()
        for key in ([name] if not fields else [f"{name}_{field}" for field in fields])
    ]
    assert numbers == list(ALL.scores)
    assert set(numbers) == set(registry.VALUES)
    for value in registry.VALUES.values():
        assert value.says.format(0.5) != value.says
    for name, (function, _) in registry.SCORES.items():
        assert function.__name__ in metrics.__all__ or name == "density_mig"


def test_the_default_is_the_fast_scores():
    assert tuple(FAST.scores) == registry.FAST
    assert list(disentanglement_report(CODES, FACTORS, scores=["sap", "mig"], **PLAIN).scores) == [
        "mig",
        "sap",
    ]
    assert list(disentanglement_report(CODES, FACTORS, scores="mcc", **PLAIN).scores) == ["mcc"]


def test_with_log_variances_the_default_has_the_mig_of_densities():
    report = disentanglement_report(CODES, FACTORS, logvar=LOGVAR, **PLAIN)
    assert set(report.scores) == {*registry.FAST, "density_mig"}
    assert report.scores["density_mig"] == ALL.scores["density_mig"]
    without = disentanglement_report(CODES, FACTORS, scores="all", **PLAIN)
    assert without.left_out.keys() == {"density_mig"}


def test_each_score_gets_the_options_that_it_has():
    options = {"n_bins": 8, "strategy": "quantile", "correction": "miller-madow"}
    report = disentanglement_report(CODES, FACTORS, **options, **PLAIN)
    assert report.scores["mig"].value == metrics.mig_score(CODES, FACTORS, **options)
    assert report.scores["mcc"].value == FAST.scores["mcc"].value
    want = metrics.pairwise_information_score(CODES, **options)
    assert report.scores["pairwise_information"].value == want


def test_the_report_has_the_matrices():
    np.testing.assert_array_equal(
        ALL.gap.mutual_info, metrics.mutual_info_gap(CODES, FACTORS).mutual_info
    )
    assert ALL.dci.importance.shape == (3, 2)
    assert FAST.dci is None


# Intervals


def test_intervals_are_those_of_score_interval():
    options = {"n_resamples": 5, "random_state": 0}
    report = disentanglement_report(CODES, FACTORS, scores=["mig"], **QUICK)
    want = metrics.score_interval(metrics.mig_score, CODES, FACTORS, **options)
    assert report.scores["mig"] == pytest.approx(want, abs=1e-12)
    assert want.high < 1
    assert report.confidence == 0.95


def test_a_value_of_one_row_leaves_the_intervals():
    rare = np.column_stack([FACTORS, np.arange(len(FACTORS)) == 7])
    report = disentanglement_report(CODES, rare, n_resamples=4)
    assert not any(math.isnan(interval.low) for interval in report.scores.values())


def test_intervals_stay_in_the_range_of_the_score():
    codes = FACTORS[:40] + 0.5 * np.random.default_rng(3).standard_normal((40, 2))
    options = {"n_bins": 5, "correction": "miller-madow", "n_resamples": 20, "confidence": 0.999}
    report = disentanglement_report(codes, FACTORS[:40], **options)
    for name, (_, low, high, _) in report.scores.items():
        assert high <= 1
        assert low >= (-math.inf if name == "linear_r2" else 0)
    wide = metrics.score_interval(metrics.mig_score, codes, FACTORS[:40], random_state=0, **options)
    assert not 0 <= wide.low <= wide.high <= 1
    assert "99.9% interval" in str(report)


def test_slow_scores_have_no_interval():
    report = disentanglement_report(CODES, FACTORS, scores=["mig", "sap"], **QUICK)
    assert not math.isnan(report.scores["mig"].low)
    assert math.isnan(report.scores["sap"].low)
    alone = disentanglement_report(CODES, FACTORS, scores=["sap"], **QUICK)
    assert alone.confidence is None


def test_the_pairs_of_many_latents_have_no_interval():
    codes = RNG.standard_normal((600, 21))
    names = ["mig", "pairwise_information"]
    options = {"scores": names, "correction": "miller-madow", **QUICK}
    many, few = (disentanglement_report(z, FACTORS, **options) for z in (codes, codes[:, :20]))
    assert [math.isnan(many.scores[name].low) for name in names] == [False, True]
    assert [math.isnan(few.scores[name].low) for name in names] == [False, False]


def test_the_pairs_of_very_many_latents_are_counted_on_demand():
    codes = RNG.standard_normal((100, 101))
    factors = FACTORS[:100] > 1
    options = {"correction": "miller-madow", **PLAIN}
    report = disentanglement_report(codes, factors, **options)
    assert set(report.left_out) == {"pairwise_information"}
    named = disentanglement_report(codes, factors, scores=["pairwise_information"], **options)
    assert named.scores["pairwise_information"].value > 0


def test_a_report_repeats():
    again = disentanglement_report(CODES, FACTORS, **QUICK)
    assert again.to_dict() == FAST.to_dict()


# What does not exist


WORDS = np.array(["disc", "square", "heart", "star"])[FACTORS]


def test_scores_that_do_not_exist_are_left_out_with_the_reason():
    report = disentanglement_report(CODES, WORDS, **PLAIN)
    assert set(report.left_out) == {"mcc", "linear_r2"}
    assert set(report.scores) == set(registry.FAST) - {"mcc", "linear_r2"}
    assert "no mcc: factors must hold real numbers" in str(report)
    single = disentanglement_report(CODES[:, :1], FACTORS[:, 0], **PLAIN)
    assert set(single.left_out) == {"modularity", "pairwise_information"}


def test_parts_that_do_not_exist_are_left_out_with_the_reason():
    report = disentanglement_report(CODES, FACTORS[:, 0], scores=["infomec"], **PLAIN)
    assert set(report.scores) == {"infomec_explicitness", "infomec_compactness"}
    assert set(report.left_out) == {"infomec_modularity"}
    assert "no infomec_modularity: it is NaN, because" in str(report)


def test_a_score_that_is_named_must_exist():
    with pytest.raises(TypeError, match="factors must hold real numbers"):
        disentanglement_report(CODES, WORDS, scores=["mig", "mcc"], **PLAIN)


@pytest.mark.parametrize(
    ("codes", "factors", "options", "error", "text"),
    [
        (CODES, FACTORS[:9], {}, ValueError, "600 and 9 rows"),
        (CODES, FACTORS, {"scores": []}, ValueError, "scores must have at least one name of mig,"),
        (CODES * np.nan, FACTORS, {}, ValueError, "codes must have no NaN"),
        (CODES, 0 * FACTORS, {}, ValueError, "factors must take at least two values"),
        (CODES, FACTORS, {"scores": ["mig", "fid"]}, ValueError, "scores must be 'all' or .* fid"),
        (CODES, FACTORS, {"logvar": LOGVAR[:, :2]}, ValueError, r"shape of codes, \(600, 3\); got"),
        (CODES, FACTORS, {"scores": "density_mig"}, ValueError, "logvar must be given, the log-v"),
        (CODES, FACTORS, {"bins": 3}, TypeError, "options must be of n_bins, .*; got bins"),
        (CODES, FACTORS, {"confidence": 2}, ValueError, "confidence must be between 0 and 1"),
    ],
)
def test_errors(codes, factors, options, error, text):
    with pytest.raises(error, match=text):
        disentanglement_report(codes, factors, **options)


def test_a_warning_of_several_scores_is_given_once():
    codes = np.column_stack([FACTORS[:, 0] * 20 + RNG.integers(0, 20, 600), CODES[:, 0]])
    with pytest.warns(UserWarning, match="discrete_codes=True") as told:
        disentanglement_report(codes, FACTORS, **PLAIN)
    texts = [str(warning.message) for warning in told]
    assert len(set(texts)) == len(texts)
    assert {warning.filename for warning in told} == {__file__}


# Shown and exported


def test_the_table():
    heading, rows = str(FAST).split("\n\n")
    assert heading == "600 items, 3 latents, 2 factors"
    header, *lines = rows.splitlines()
    assert re.split(r"\s{2,}", header) == ["score", "value", "95% interval", "better", "here"]
    for line, (name, interval) in zip(lines, FAST.scores.items(), strict=True):
        label, value, ends, better, says = re.split(r"\s{2,}", line)
        kind = registry.VALUES[name]
        assert (label, better) == (kind.label, "higher" if kind.higher else "lower")
        assert float(value) == pytest.approx(interval.value, abs=5.1e-5)
        assert list(map(float, ends.split(" to "))) == pytest.approx(interval[1:3], abs=5.1e-4)
        assert says == kind.says.format(interval.value)
    assert "interval" not in str(ALL)


def test_html_escapes_its_cells():
    html = disentanglement_report(
        pd.DataFrame(CODES), pd.DataFrame(FACTORS[:, :1], columns=["<b>"]), **PLAIN
    )._repr_html_()
    assert html.count("<tr>") == html.count("</tr>") >= 7
    assert "<b>" not in html
    assert FAST._repr_html_().count("<tr>") == 1 + len(FAST.scores)


def test_json_is_the_dict(tmp_path):
    path = tmp_path / "scores.json"
    text = ALL.to_json(path)
    assert json.loads(text) == json.loads(path.read_text()) == ALL.to_dict()
    mig = FAST.to_dict()["scores"]["mig"]
    assert (mig["value"], mig["low"], mig["high"]) == FAST.scores["mig"][:3]
    assert mig["higher_is_better"] is True
    assert FAST.to_dict()["scores"]["pairwise_information"]["higher_is_better"] is False
    assert ALL.to_dict()["scores"]["sap"]["low"] is None


def test_the_dict_tells_the_options():
    options = {"n_bins": 6, "correction": "miller-madow"}
    settings = disentanglement_report(CODES, FACTORS, **options, **PLAIN).to_dict()["settings"]
    assert (settings["n_bins"], settings["correction"]) == ("6", "'miller-madow'")
    default = json.loads(FAST.to_json())["settings"]
    assert (default["n_bins"], default["strategy"]) == ("20", "'uniform'")


def test_frames_go_together():
    frame = pd.concat([FAST.to_frame(), ALL.to_frame()], ignore_index=True)
    assert frame["mig"].tolist() == [FAST.scores["mig"].value, ALL.scores["mig"].value]
    assert frame["mig_low"].isna().tolist() == [False, True]
