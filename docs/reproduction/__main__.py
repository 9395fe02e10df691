"""Train what the table lacks, and draw the figures: ``python -m reproduction``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reproduction.data import objects
from reproduction.grid import PARTS, Run, runs
from reproduction.scores import scores
from reproduction.table import Table, conditions
from reproduction.training import Trained, train
from tcdecomp.demo.__main__ import seed_list
from tcdecomp.demo.images import Images
from tcdecomp.demo.models import Recipe, prepare

HERE = Path(__file__).parent
GENERATED = [part for part in PARTS if part != "dsprites"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the runs that the table lacks, then draw the figures and write the tables."""
    options = parse(arguments)
    table = Table(options.output / "results.csv")
    planned = [run for part in options.parts for run in runs(part, options.seeds)]
    for run in planned:
        advance(run, table, options)
    if not options.no_figures:
        # Imported here: the trainings do not need matplotlib.
        from reproduction.figures import draw_all
        from reproduction.text import write_all

        generated = options.output / "generated"
        generated.mkdir(exist_ok=True)
        draw_all(table.path, generated)
        write_all(table.path, generated)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m reproduction", description=__doc__)
    parser.add_argument("--parts", nargs="*", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--seeds", type=seed_list, default=list(range(8)), metavar="LIST")
    parser.add_argument("--data", type=Path, metavar="FILE", help="dSprites' npz: adds its part")
    parser.add_argument("--steps", type=int, metavar="N", help="in place of the recipe's")
    parser.add_argument("--rescore", action="store_true", help="score the kept posteriors anew")
    parser.add_argument("--no-figures", action="store_true")
    parser.add_argument("--output", type=Path, default=HERE, metavar="DIR")
    options = parser.parse_args(arguments)
    if options.parts is None:
        options.parts = GENERATED + ["dsprites"] * (options.data is not None)
    if options.steps is not None and options.output == HERE:
        parser.error(
            "--steps needs --output DIR: runs of other lengths do not belong in this table"
        )
    if "dsprites" in options.parts and options.data is None:
        parser.error("the part dsprites needs --data FILE")
    return options


def advance(run: Run, table: Table, options: argparse.Namespace) -> None:
    """Train and score a run that the table lacks; score a kept one anew if that is asked for."""
    kept = options.output / "posteriors" / f"{run.key}.npz"
    if run not in table:
        images, recipe = images_of(run.data, options)
        trained = train(run, images, recipe)
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, **vars(trained))
        facts = {"steps": recipe.steps, "batch_size": recipe.batch_size, "lr": recipe.lr}
        facts |= {"reconstruction": trained.reconstruction, "seconds": trained.seconds}
        table.add(run, facts | scores(trained, images) | conditions())
        print(f"{run.key}: MIG {table.rows[run.key]['mig']:.3f}", flush=True)
    elif options.rescore and kept.is_file():
        images, _ = images_of(run.data, options)
        with np.load(kept) as arrays:
            trained = Trained(**{name: arrays[name] for name in arrays})
        table.add(run, scores(trained, images) | {"scored_with": conditions()["versions"]})


LOADED: dict[str, tuple[Images, Recipe]] = {}


def images_of(data: str, options: argparse.Namespace) -> tuple[Images, Recipe]:
    """Return the images and the demo's recipe for them: the quick one where they are small."""
    if data not in LOADED:
        path = options.data if data == "dsprites" else None
        images, recipe = prepare(path, data != "dsprites", options.steps)
        LOADED[data] = (objects() if data == "objects" else images), recipe
    return LOADED[data]


if __name__ == "__main__":
    main()
