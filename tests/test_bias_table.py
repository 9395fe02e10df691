"""The estimators' bias, measured by the benchmark, against measurements by other code.

The reference values come from an implementation that shares nothing with this one but the data
sets' definition. They are rounded to the digits shown; their truths have standard errors of 0.004.
"""

import math
import re
from pathlib import Path

import pytest

from benchmarks.estimator_bias import BANK, BATCH_SIZES, STALE, measure

PAGE = Path(__file__).parents[1] / "docs/benchmarks/bias.md"
FIGURE = re.compile(r"([-+]\d+\.?(\d*))\((\d+)\)")  # +1.37(2)
TRUTH_ERROR = 0.004
TRUTH = {"A": (5.665, 0.104, 0.001), "B": (9.179, 4.649, 0.007)}
# MI, TC and DWKL, for batches of 64, 256 and 1024.
BIAS = {
    "A": {
        "MWS": ("+7.4 +8.3 +8.8", "+84.5 +83.8 +83.2", "-91.9 -92.1 -92.1"),
        "inclusive": ("-1.81 -.92 -.37", "+1.63 +.87 +.36", "+.18 +.05 +.01"),
        "leave-one-out": ("+3.9 +1.7 +.8", "-3.6 -1.7 -.7", "-.27 -.07 -.02"),
        "MSS": ("+1.37 +.65 +.23", "-1.15 -.60 -.22", "-.22 -.05 -.01"),
        "MSS, jackknife": ("+.75 +.24 +.03", "-.76 -.24 -.03", "+.008 +.001 +.001"),
        BANK: ("+.05 +.05 +.05", "-.05 -.05 -.05", "-.002 -.002 -.002"),
        STALE: ("+.06 +.06 +.06", "-.05 -.06 -.06", "-.003 -.003 -.003"),
    },
    "B": {
        "MWS": ("+4.2 +5.6 +7.0", "+87.2 +86.3 +85.1", "-91.3 -91.9 -92.1"),
        "inclusive": ("-5.02 -3.63 -2.25", "+4.26 +3.42 +2.20", "+.76 +.21 +.05"),
        "leave-one-out": ("+113 +70 +44", "-110 -69 -44", "-3.2 -.7 -.2"),
        "MSS": ("+.03 +.03 +.02", "+1.08 +.21 +.04", "-1.11 -.24 -.05"),
        "MSS, jackknife": ("+.03 +.02 +.01", "-.12 -.04 -.02", "+.09 +.02 +.01"),
        BANK: ("+.01 +.01 +.01", "-.003 +.000 +.000", "-.008 -.008 -.008"),
        STALE: ("+.01 +.01 +.01", "-.003 +.000 +.000", "-.01 -.01 -.01"),
    },
}


def allowed(error, text):
    """Return how far apart two measurements may be: rounding, and 4 errors of the difference."""
    rounding = 0.5 * 10.0 ** -len(text.partition(".")[2])
    return rounding + 4 * math.hypot(error, error, TRUTH_ERROR)


@pytest.mark.filterwarnings("ignore:a batch of:UserWarning")
@pytest.mark.parametrize("config", BIAS)
def test_estimates_are_those_of_other_code(config):
    """At one batch size, with few batches."""
    result = measure(config, (64,), rows=2560, samples=1000)
    for name, reference in BIAS[config].items():
        values, errors = result.cells[64].errors[name]
        estimates = values + result.truth
        for term, texts in enumerate(reference):
            text = texts.split()[0]
            want = float(text) + TRUTH[config][term]
            assert abs(estimates[term] - want) < allowed(errors[term].item(), text), (name, term)


def published():
    """Yield data set, estimator, term, place in the cell, value and standard error of the page."""
    for config, text in zip(BIAS, PAGE.read_text().split("**B"), strict=True):
        for line in text.splitlines():
            name, *cells = [part.strip() for part in line.strip("|").split("|")]
            for term, cell in enumerate(cells if name in BIAS[config] else ()):
                for place, (value, digits, error) in enumerate(FIGURE.findall(cell)):
                    yield config, name, term, place, float(value), int(error) / 10 ** len(digits)


def test_the_published_table_is_that_of_other_code():
    count = 0
    for config, name, term, place, value, error in published():
        text = BIAS[config][name][term].split()[place]
        where = config, name, term, BATCH_SIZES[place]
        assert abs(value - float(text)) < allowed(error, text), where
        count += 1
    assert count == len(BIAS) * len(BIAS["A"]) * 3 * len(BATCH_SIZES)


def test_the_published_bracket_held():
    cells = len(BIAS) * 3 * len(BATCH_SIZES)
    assert f"holds the truth in {cells} of {cells} cells." in PAGE.read_text()
