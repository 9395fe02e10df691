"""Train VAEs on the demo's squares under several weights, and draw what the guides say of them.

    python docs/pictures/squares.py train   # 31 models; rows that exist are kept
    python docs/pictures/squares.py draw

``train`` writes squares.csv, one row for each model, and curves.csv, the bracket of the total
correlation while two of the settings train.
"""

import argparse
import csv
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import BLUE, FOLDER, GREY, ORANGE, save
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from tcdecomp import Bracket, Posterior, TCDecomposition, decompose_dataset, mig_score, presets
from tcdecomp.demo.images import squares
from tcdecomp.demo.models import mlp

BETAS = (2, 4, 6, 12)
SEEDS, WATCHED_SEEDS = range(3), range(5)
STEPS, BATCH, LATENTS, WIDTH, LR = 1000, 128, 10, 256, 4e-3
ROWS, CURVES = FOLDER / "squares.csv", FOLDER / "curves.csv"
FAMILIES = {"beta-VAE": presets.beta_vae, "beta-TCVAE": presets.beta_tcvae}
WATCHED = ("VAE", 1), ("beta-TCVAE", 6)
EVERY = 50  # steps between two brackets
TABLES = {
    "curves": list(WATCHED),
    "sweep": [("VAE", 1), *((name, beta) for name in FAMILIES for beta in BETAS)],
}


def settings() -> Iterator[tuple[str, int, TCDecomposition]]:
    """Yield each model's name, beta and criterion."""
    yield "VAE", 1, presets.vae()
    for name, preset in FAMILIES.items():
        for beta in BETAS:
            yield name, beta, preset(beta)


def train_all() -> None:
    """Train each model that has no row yet, and append its row."""
    done = {(row["model"], row["beta"], row["seed"]) for row in read(ROWS)}
    for seed in WATCHED_SEEDS:
        for name, beta, criterion in settings():
            watched = (name, beta) in WATCHED
            if (name, str(beta), str(seed)) in done or not (watched or seed in SEEDS):
                continue
            row, curve = train(criterion, seed, watched)
            key = {"model": name, "beta": beta, "seed": seed}
            append(ROWS, [key | row])
            append(CURVES, [key | point for point in curve])


def train(
    criterion: TCDecomposition, seed: int, watched: bool
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Train one model. Return its measurements, and its brackets where they are watched."""
    torch.manual_seed(seed)
    images = squares()
    pixels, factors = images.flat(), images.factors
    encoder = mlp(pixels.shape[1], WIDTH, WIDTH, 2 * LATENTS)
    decoder = mlp(LATENTS, WIDTH, WIDTH, pixels.shape[1])
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=LR)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, eta_min=0.02 * LR)

    def encode(x: Tensor) -> Posterior:
        mu, logvar = encoder(x).chunk(2, dim=1)
        return Posterior.from_moments(mu, logvar.clamp(-12, 4))

    def loss_of(x: Tensor, q: Posterior) -> Tensor:
        logits = decoder(q.z)
        return binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1).mean()

    curve: list[dict[str, float]] = []
    order = torch.randperm(len(pixels))
    for step in range(STEPS):
        place = step * BATCH % len(pixels)
        if place == 0:
            order = torch.randperm(len(pixels))
        if watched and step % EVERY == 0:
            with torch.random.fork_rng(), torch.no_grad():
                curve.append({"step": step, **bracket(encode(pixels))})
        x = pixels[order[place : place + BATCH]]
        q = encode(x)
        loss = loss_of(x, q) + criterion(*q, len(pixels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cosine.step()
    with torch.no_grad():
        q = encode(pixels)
        g = torch.Generator().manual_seed(0)
        terms, errors, _ = decompose_dataset(q.mu, q.logvar, num_samples=16_384, generator=g)
        fit = torch.stack([loss_of(pixels, q.sample(generator=g)) for _ in range(16)]).mean()
    row = {name: round(value, 4) for name, value in terms.to_dict().items()}
    row |= {"error": round(max(e.item() for e in errors[:3]), 4)}
    row |= {"reconstruction": round(fit.item(), 3), "mig": round(mig_score(q.mu, factors), 4)}
    return row, curve


def bracket(q: Posterior) -> dict[str, float]:
    """Return the bracket of the total correlation over 8 batches."""
    seen = Bracket()
    for _ in range(2):
        for rows in torch.randperm(len(q.mu)).split(BATCH):
            seen.update(*Posterior.from_moments(q.mu[rows], q.logvar[rows]), len(q.mu))
    tc = seen.interval("total_correlation")
    return {key: round(getattr(tc, key), 4) for key in ("value", "low", "high")}


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file, none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, rows: list[dict[str, object]]) -> None:
    """Append rows to a file, and the header to a new one."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        for row in rows:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if new:
                writer.writeheader()
                new = False
            writer.writerow(row)


def figures(rows: list[dict[str, str]], name: str, beta: int, column: str) -> list[float]:
    """Return a column's values over the seeds of one setting."""
    return [float(r[column]) for r in rows if (r["model"], r["beta"]) == (name, str(beta))]


def shown(values: list[float], digits: int) -> str:
    """Return the mean, and the standard deviation in brackets."""
    return f"{mean(values):.{digits}f} ({stdev(values):.{digits}f})"


def table(rows: list[dict[str, str]], chosen: list[tuple[str, int]]) -> str:
    """Return a Markdown table with one row for each setting."""
    columns = {"MIG": ("mig", 2), "TC": ("total_correlation", 2), "MI": ("index_code_mi", 2)}
    columns |= {"KL": ("kl", 2), "reconstruction": ("reconstruction", 1)}
    lines = [["model", "beta", *columns], ["---"] * (2 + len(columns))]
    for name, beta in chosen:
        cells = [shown(figures(rows, name, beta, key), n) for key, n in columns.values()]
        lines.append([name, str(beta), *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw_curves() -> Figure:
    """Draw the total correlation while two settings train: mean of the seeds, and the brackets."""
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.subplots()
    rows = read(CURVES)
    for (name, beta), colour in zip(WATCHED, (GREY, ORANGE), strict=True):
        steps = sorted({int(row["step"]) for row in rows})
        ends = [
            [
                mean(figures([r for r in rows if r["step"] == str(s)], name, beta, key))
                for s in steps
            ]
            for key in ("low", "high", "value")
        ]
        axes.fill_between(steps, ends[0], ends[1], color=colour, alpha=0.25, linewidth=0)
        label = name if beta == 1 else f"{name}, beta = {beta}"
        axes.plot(steps, ends[2], color=colour, linewidth=2, label=label)
    axes.set(xlabel="step", ylabel="total correlation, nats", xlim=(0, STEPS))
    axes.margins(y=0.2)
    axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def draw_sweep() -> Figure:
    """Draw MIG, total correlation and reconstruction against beta, a dot for each seed."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    rows = read(ROWS)
    columns = {"MIG": "mig", "total correlation, nats": "total_correlation"}
    columns |= {"reconstruction loss, nats": "reconstruction"}
    panels = figure.subplots(1, 3)
    for axes, (title, key) in zip(panels, columns.items(), strict=True):
        for name, colour in zip(FAMILIES, (BLUE, ORANGE), strict=True):
            places = {1: figures(rows, "VAE", 1, key)}
            places |= {beta: figures(rows, name, beta, key) for beta in BETAS}
            curve(axes, places, colour, name)
        axes.set(title=title, xlabel="beta", xscale="log", ylim=(0, None))
        axes.set_xticks(list(places), [str(beta) for beta in places])
        axes.minorticks_off()
    panels[0].legend(frameon=False)
    return figure


def curve(axes: Axes, places: dict[int, list[float]], colour: str, label: str) -> None:
    """Draw a line through the means, and the seeds as dots."""
    axes.plot(list(places), [mean(v) for v in places.values()], color=colour, label=label)
    for beta, values in places.items():
        axes.scatter([beta] * len(values), values, color=colour, s=14, alpha=0.6, linewidths=0)


def draw_all() -> None:
    """Draw the two pictures, and write the two tables beside them."""
    save(draw_curves, "curves.svg")
    save(draw_sweep, "sweep.svg")
    for name, chosen in TABLES.items():
        (FOLDER / f"{name}.md").write_text(table(read(ROWS), chosen))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["train", "draw"])
    warnings.filterwarnings("ignore", message=".* rows are few for so many bins")
    warnings.filterwarnings("ignore", "a batch of .* too small", UserWarning)
    {"train": train_all, "draw": draw_all}[parser.parse_args().what]()
