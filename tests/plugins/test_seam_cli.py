"""tcdecomp seam, and score by a seam."""

import pytest
import torch

import structures
from tcdecomp import Seam, find_seam, score
from tcdecomp.cli import main

FACTORY = """
import torch
import structures

def vae():
    torch.manual_seed(0)
    return structures.Pair(), structures.images()

def experts():
    return structures.Experts(), structures.images()

def alone():
    return structures.Pair()
"""


@pytest.fixture(autouse=True)
def _project(tmp_path, monkeypatch):
    (tmp_path / "project_of_a_user.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def test_prints_the_seam(capsys):
    assert main(["seam", "project_of_a_user:vae"]) == 0
    assert capsys.readouterr().out.startswith(
        "Pair: Seam(moments='encoder', z='decoder', scale='sd', loss='forward', kl_weight=None)\n"
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("project_of_a_user:experts", "error: no seam was found in Experts: no layer gives a mean"),
        ("project_of_a_user:alone", "must return (model, batch); got Pair("),
        ("project_of_a_user:nobody", "must name a function that can be imported; got project"),
        ("project_of_a_user", "must name a function that can be imported; got project_of_a_user"),
        ("nowhere:vae", "got nowhere:vae: No module named 'nowhere'"),
        (":vae", "must name a function that can be imported; got :vae"),
    ],
)
def test_says_what_is_wrong(capsys, name, text):
    assert main(["seam", name]) == 1
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a pair", "labels behind z", "one convolution"])
def test_score_reads_a_model_at_its_seam(name):
    known = structures.structures()[name]
    torch.manual_seed(0)
    model = known.kind()
    seam = find_seam(model, known.batch, quiet=True)
    report = score(model, [known.batch] * 2, inputs=lambda batch: batch, seam=seam)
    model.eval()
    with torch.no_grad():
        moments = {
            "a pair": lambda x: model.encoder(x),
            "labels behind z": lambda xy: model(*xy)[1:],
            "one convolution": lambda x: model(x)[1],
        }[name](known.batch)
    mu, second = (moment.flatten(1) for moment in moments)
    logvar = 2 * second.log() if name == "a pair" else second
    assert report.items == 2 * len(mu)
    kl = structures.kl_of(mu, logvar).mean().item()
    assert report.terms.terms.kl == pytest.approx(kl, rel=1e-5)


class Unpacks(structures.Conditional):
    """It takes whole batches only, in its training_step."""

    def forward(self, x, y, _):
        raise NotImplementedError

    def training_step(self, batch, _):
        x, y = batch
        return super().forward(x, y)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (structures.Conditional, "fits none of its methods forward, encode"),
        (Unpacks, "too many values to unpack"),
    ],
)
def test_score_says_which_inputs_a_model_with_labels_needs(kind, why):
    model, batch = kind(), structures.conditional_batch()
    seam = Seam(["fc_mu", "fc_var"], "decoder")
    with pytest.raises(ValueError, match=rf"{why}.*A batch is a .* inputs=lambda batch: batch$"):
        score(model, [batch], seam=seam)
    assert score(model, [batch], seam=seam, inputs=lambda batch: batch).items == len(batch[0])
    with pytest.raises(ValueError, match=r"^moments must name submodules .* mean 'fc_mu'"):
        score(model, [batch], seam=Seam("fc_m", "decoder"))
