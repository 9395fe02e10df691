"""Train the demo's three models under seed 0 and draw their traversals, for the first page.

python docs/pictures/models.py    # some minutes; writes models-light.png and models-dark.png
"""

from matplotlib.figure import Figure
from style import save

from tcdecomp import TCDecomposition
from tcdecomp.demo.comparison import MODELS, Exhibit, draw_images, exhibit_of, objective
from tcdecomp.demo.models import evaluate, prepare, train

SEED = 0


def exhibits() -> list[Exhibit]:
    """Return one column for each model."""
    images, recipe = prepare(None, quick=False, steps=None)
    columns = []
    for name, (alpha, beta, gamma) in MODELS.items():
        criterion = TCDecomposition(alpha=alpha, beta=beta, gamma=gamma)
        model = train(name, criterion, images, recipe, SEED)
        loss, gap = objective(alpha, beta, gamma), evaluate(model, images, recipe).gap
        columns.append(exhibit_of(name, loss, model, images, gap))
    return columns


def draw(columns: list[Exhibit]) -> Figure:
    """Draw each model's latents, moved one at a time; the factor beside its best latent."""
    rows = max(len(column.live) for column in columns)
    figure = Figure(figsize=(11, 1.1 + 0.46 * rows), layout="constrained")
    for axes, column in zip(figure.subplots(1, len(columns)), columns, strict=True):
        side = draw_images(axes, column.traversals, rows)
        best = [int(j) for j in column.gap.best_latent]
        names = [
            "\n".join(column.factor_names[k] for k, b in enumerate(best) if b == j)
            for j in column.live
        ]
        ticks = [(row + 0.5) * side for row in range(len(names))]
        axes.set_yticks(ticks, names, fontsize=11)
        axes.set_xticks([])
        axes.set_facecolor("none")
        title = f"{column.name}: MIG {column.gap.score:.2f}"
        axes.set_title(title, fontsize=15, fontweight="bold", pad=24)
        place = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center", "fontsize": 10}
        axes.annotate(column.objective, (0.5, 1), xycoords="axes fraction", **place)
    return figure


if __name__ == "__main__":
    columns = exhibits()
    save(lambda: draw(columns), "models.png")
