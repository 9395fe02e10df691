"""Scores against values of other code, on the cases of tests/data.

``score_reference.json`` holds, for each case: the table scores of an implementation apart from this
project; MIG of ubisoft-laforge-disentanglement-metrics; InfoMEC of the authors' code; and SAP,
IRS, explicitness and DCI of disentanglement_lib on the first 2,000 rows, the second half of which
are test rows.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from data.mig_cases import make_case
from tcdecomp.metrics import (
    contingency_tables,
    dci_score,
    dcimig_score,
    explicitness_score,
    infomec_score,
    irs_score,
    jemmig_score,
    mig_score,
    mig_sup_score,
    modularity_score,
    sap_score,
)

pytestmark = pytest.mark.filterwarnings("ignore:codes vary", "ignore:codes hold whole numbers")
FILE = Path(__file__).parents[1] / "data" / "score_reference.json"
REFERENCE = json.loads(FILE.read_text("utf-8"))
CONTINUOUS = "j_continuous_factors"
SCORES = {
    "mig_sup": mig_sup_score,
    "mig_sup_live": lambda t: mig_sup_score(t, dead_latents="ignore"),
    "mig_sup_ubisoft": lambda t: mig_sup_score(t, convention="ubisoft"),
    "jemmig": jemmig_score,
    "dcimig": dcimig_score,
    "modularity": modularity_score,
    "modularity_live": lambda t: modularity_score(t, dead_latents="ignore"),
}


def cases_with(key):
    return [name for name, case in REFERENCE.items() if key in case]


@pytest.mark.parametrize("name", REFERENCE)
def test_table_scores(name):
    case = make_case(name)
    for key, expected in REFERENCE[name]["tables"].items():
        strategy, n_bins = key.split("_")
        tables = contingency_tables(
            case["codes"],
            case["factors"],
            n_bins=int(n_bins),
            strategy=strategy,
            discrete_factors=name != CONTINUOUS,
        )
        got = {score: SCORES[score](tables) for score in expected}
        assert got == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.parametrize("name", cases_with("corrected"))
def test_corrections(name):
    case, expected = make_case(name), REFERENCE[name]["corrected"]
    tables = contingency_tables(case["codes"], case["factors"], discrete_factors=name != CONTINUOUS)
    got = {correction: mig_score(tables, correction=correction) for correction in expected}
    assert got == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.parametrize("name", cases_with("ubisoft"))
def test_convention_of_ubisoft(name):
    case = make_case(name)
    got = mig_score(
        case["codes"],
        case["factors"],
        convention="ubisoft",
        discrete_factors=name != CONTINUOUS,
    )
    assert got == pytest.approx(REFERENCE[name]["ubisoft"], rel=0, abs=1e-9)


# Codes of few values: the noise that breaks ties, another in each run, decides.
TIES = (
    "a_full_grid",
    "c_full_grid",
    "k_edges",
    "r_tiny",
    "t_posterior",
    "s_scales",
    "h_independent_n100",
)

# The logistic regression stops after 100 iterations, at another point in each scikit-learn
UNCONVERGED = ("p_outlier", "e_dsprites_like_noisy_1k")


def few_rows(name):
    return len(make_case(name)["codes"]) <= 3000 and not name.startswith(TIES)


@pytest.mark.parametrize("name", list(filter(few_rows, cases_with("infomec"))))
def test_infomec(name):
    case, expected = make_case(name), REFERENCE[name]["infomec"]
    got = infomec_score(case["codes"], case["factors"], convention="infomec")
    values = [got.modularity, got.explicitness, got.compactness, got.active.sum()]
    wanted = [np.nan if value is None else value for value in expected]
    if name in UNCONVERGED:
        values[1] = wanted[1] = 0
    np.testing.assert_allclose(values, wanted, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", cases_with("irs"))
def test_irs(name):
    codes, factors, _ = rows_of(name)
    got = [irs_score(codes, factors), irs_score(codes, factors, quantile=1)]
    assert got == pytest.approx(REFERENCE[name]["irs"], rel=0, abs=1e-9)


def rows_of(name):
    case = make_case(name)
    n = min(len(case["codes"]), 2000)
    return case["codes"][:n], case["factors"][:n], np.arange(n) >= n // 2


@pytest.mark.parametrize("name", cases_with("fitted"))
def test_sap(name):
    codes, factors, test = rows_of(name)
    expected = REFERENCE[name]["fitted"]
    numbers = {"discrete_factors": False}
    got = {
        "sap_numbers": sap_score(codes, factors, **numbers),
        "sap_numbers_train": sap_score(codes[~test], factors[~test], **numbers),
    }
    if "sap_classes" in expected:
        got["sap_classes"] = sap_score(
            codes, factors, convention="disentanglement_lib", test_size=test, random_state=0
        )
    for key in got.keys() & expected.keys():
        assert got[key] == pytest.approx(expected[key], abs=2e-3 if "classes" in key else 1e-9)


@pytest.mark.parametrize(
    "name", [name for name in cases_with("fitted") if "explicitness" in REFERENCE[name]["fitted"]]
)
def test_explicitness(name):
    codes, factors, test = rows_of(name)
    got = explicitness_score(codes, factors, test_size=test)
    assert got == pytest.approx(REFERENCE[name]["fitted"]["explicitness"], abs=2e-3)


@pytest.mark.parametrize("name", ["a_perfect_small", "d_mixed"])
def test_dci(name):
    codes, factors, test = rows_of(name)
    got = dci_score(codes, factors, test_size=test, random_state=0)
    values = got.disentanglement, got.completeness, got.train_informativeness, got.informativeness
    assert values == pytest.approx(REFERENCE[name]["fitted"]["dci"], abs=0.01)
