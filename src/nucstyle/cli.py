"""The command line: a verb is a typed function of a few lines that parses, calls a workflow and prints.

Heavy imports stand inside the verbs, so that `nucstyle --help` answers at once.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nucstyle.core.errors import Interrupted, NucstyleError, OptionError

if TYPE_CHECKING:
    from nucstyle.data.decoders import ReadOptions
    from nucstyle.data.pixel_cache import CacheUse
    from nucstyle.workflows.console import ConsoleProgress

app = typer.Typer(
    name="nucstyle",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Data = Annotated[str, typer.Argument(metavar="DATA", help="A folder, file, glob in quotes, or manifest.csv.")]
Out = Annotated[Path, typer.Option("--out", metavar="RUN", help="Output folder.")]
OptionalOut = Annotated[Path | None, typer.Option("--out", metavar="RUN", help="Output folder, if any.")]
Masks = Annotated[
    str | None, typer.Option(metavar="MODALITY,...", help="Use only the masks of these modalities [default: all].")
]
UseGate = Annotated[bool, typer.Option("--gate/--no-gate", help="Replace restyled images that lost or gained nuclei.")]
GateJudge = Annotated[
    str, typer.Option("--judge", metavar="NAME|FILE|RUN", help="The network that finds nuclei gained, for --gate.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run in RUN.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an older run in RUN.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="LAYOUT",
        help="Layout of the data: dsb2018, rle, pairs, geojson, imagej, cellpose, stardist, coco, bbbc039, nuinsseg, domains "
        "or manifest [default: detected].",
    ),
]
MaxPixels = Annotated[
    int | None, typer.Option("--max-pixels", metavar="N", min=1, help="Refuse larger images [default: 178956970].")
]
ValueRange = Annotated[
    str | None,
    typer.Option("--range", metavar="LOW,HIGH", help="File values that become black and white [default: found out]."),
]
Page = Annotated[
    int | None, typer.Option("--page", metavar="N", min=1, help="Plane or channel of files that hold several, from 1.")
]
Pieces = Annotated[
    bool,
    typer.Option(
        "--connected-components", help="Each connected piece of a label image is a nucleus, as in masks of 0 and 255."
    ),
]
UseCache = Annotated[bool, typer.Option("--cache/--no-cache", help="Keep decoded images and masks for the next time.")]
Verify = Annotated[bool, typer.Option("--verify", help="Trust what was kept only if files have the same content.")]
Recipe = Annotated[str, typer.Option(metavar="NAME|FILE", help="A shipped recipe or a TOML file.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; repeatable; see --dry-run."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the settled config and stop.")]


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from nucstyle import __version__

        print(f"nucstyle {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Style augmentation for nuclei segmentation: train on the microscopy you have annotated, segment the rest."""


@app.command()
def demo(
    out: Out = Path("demo-run"),
    seed: Seed = 0,
    device: Device = "auto",
    set_: Set = None,
    dry_run: DryRun = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Show the whole way on the bundled images, in a few minutes."""
    with _verb() as progress:
        from nucstyle.core.config import to_table
        from nucstyle.report.tables import score_table
        from nucstyle.workflows import demo as workflow

        if dry_run:
            _print_config(to_table(workflow.demo_config(set_ or [])))
            return
        with progress:
            _say_if_new(resume, out, progress)
            result = workflow.demo(
                out,
                progress=progress,
                overrides=set_ or [],
                seed=seed,
                device=device,
                resume=resume,
                overwrite=overwrite,
            )
        _print_table(score_table(result))
        print(f"report: {out / 'report.html'}")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="dsb2018.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder.")],
    part: Annotated[str, typer.Option("--part", help="train, test (of stage 1) or stage2.")] = "train",
    from_dir: Annotated[
        Path | None,
        typer.Option("--from-dir", metavar="DIR", help="Take the published files from this folder, without a network."),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Fetch a public data set from its publisher."""
    with _verb() as progress:
        from nucstyle.workflows import fetch as workflow

        with progress:
            _say_if_new(resume, out, progress)
            workflow.fetch(
                name, out, progress=progress, part=part, from_dir=from_dir, resume=resume, overwrite=overwrite
            )
        print(f"data set: {out / 'manifest.csv'}")


@app.command()
def check(
    data: Data,
    out: OptionalOut = None,
    format_: Format = None,
    max_pixels: MaxPixels = None,
    range_: ValueRange = None,
    page: Page = None,
    pieces: Pieces = False,
    overwrite: Overwrite = False,
) -> None:
    """Look through a data set: what it is, and everything that is wrong with it."""
    with _verb() as progress:
        from nucstyle.workflows import check as workflow

        with progress:
            checkup = workflow.check(
                data,
                out,
                progress=progress,
                format=format_,
                reading=_reading(max_pixels, range_, page, pieces),
                overwrite=overwrite,
            )
        for line in workflow.describe(data, checkup):
            print(_one_line(line))
        if out is not None:
            print(f"report: {out / 'report.html'}")
        workflow.refuse_errors(data, checkup)


@app.command()
def discover(
    data: Data,
    out: Out,
    k: Annotated[
        str | None,
        typer.Option("--k", metavar="N|auto", help="How many modalities [default: as many as are named, else 6]."),
    ] = None,
    features: Annotated[
        str, typer.Option(help="What is measured of each image: chroma, or hsv as in the paper.")
    ] = "chroma",
    from_: Annotated[
        Path | None,
        typer.Option("--from", metavar="MANIFEST", help="Keep the modalities that this edited manifest names."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="SHARES",
            help="Divide undivided images: shares of train,validation,test, such as 0.7,0.15,0.15; whole fields of view.",
        ),
    ] = None,
    clahe: Annotated[bool, typer.Option("--clahe", help="Enhance the contrast of dark images first.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Of --clahe: clip_limit, tiles or darker_than; repeatable."),
    ] = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Reuse what was measured of a file before.")] = True,
    seed: Seed = 0,
    format_: Format = None,
    max_pixels: MaxPixels = None,
    range_: ValueRange = None,
    page: Page = None,
    pieces: Pieces = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Divide images into imaging modalities by their colours."""
    with _verb() as progress:
        from nucstyle.workflows import discover as workflow

        config = workflow.discover_config(
            k=k, features=features, clahe=clahe, overrides=set_ or [], seed=seed, split=split
        )
        with progress:
            _say_if_new(resume, out, progress)
            workflow.discover(
                data,
                out,
                progress=progress,
                config=config,
                anchors=from_,
                format=format_,
                reading=_reading(max_pixels, range_, page, pieces),
                cache=cache,
                resume=resume,
                overwrite=overwrite,
            )
        for line in workflow.describe(out):
            print(line)
        print(f"report: {out / 'report.html'}")


@app.command("train-style")
def train_style(
    data: Data,
    out: Out,
    recipe: Recipe = "lite",
    set_: Set = None,
    k: Annotated[
        int | None,
        typer.Option("--k", min=2, help="How many modalities [default: as many as are named, else 6]."),
    ] = None,
    annotated: Masks = None,
    init: Annotated[
        str | None, typer.Option("--init", metavar="NAME|FILE|RUN", help="Go on from these style weights in a new run.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    format_: Format = None,
    max_pixels: MaxPixels = None,
    range_: ValueRange = None,
    page: Page = None,
    pieces: Pieces = False,
    cache: UseCache = True,
    verify: Verify = False,
    dry_run: DryRun = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train the model that moves images between modalities."""
    with _verb() as progress:
        from nucstyle.core.config import to_table
        from nucstyle.workflows import recipes
        from nucstyle.workflows import train_style as workflow

        if dry_run:
            _print_config(to_table(recipes.style_recipe(recipe, set_ or [])))
            return
        with progress:
            _say_if_new(resume, out, progress)
            workflow.train_style(
                data,
                out,
                progress=progress,
                recipe=recipe,
                overrides=set_ or [],
                seed=seed,
                k=k,
                annotated=_names(annotated),
                init=init,
                device=device,
                format=format_,
                reading=_reading(max_pixels, range_, page, pieces),
                cache=_caching(cache, verify),
                resume=resume,
                overwrite=overwrite,
            )
        print(f"report: {out / 'report.html'}")


@app.command("evaluate-style")
def evaluate_style(
    data: Data,
    style: Annotated[str, typer.Option("--style", metavar="NAME|FILE|RUN", help="The style model to measure.")],
    out: Out,
    on: Annotated[
        str, typer.Option("--on", help="Restyle the images of this part: validation or test.")
    ] = "validation",
    judge: Annotated[str, typer.Option(metavar="NAME|FILE|RUN", help="The network that finds nuclei.")] = "dsb2018",
    draws: Annotated[int, typer.Option(min=1, help="Restyled images of each pair of modalities.")] = 40,
    rows: Annotated[int, typer.Option(min=1, help="Images of each modality in its grid.")] = 4,
    min_kept: Annotated[
        float,
        typer.Option(min=0, max=1, help="Fail if in a pair a smaller share of them keeps its nuclei."),
    ] = 0.0,
    seed: Seed = 0,
    device: Device = "auto",
    format_: Format = None,
    max_pixels: MaxPixels = None,
    range_: ValueRange = None,
    page: Page = None,
    pieces: Pieces = False,
    cache: UseCache = True,
    verify: Verify = False,
    overwrite: Overwrite = False,
) -> None:
    """Measure whether a style model keeps nuclei and reaches its modalities."""
    with _verb() as progress:
        from nucstyle.report.tables import pair_table
        from nucstyle.workflows import evaluate_style as workflow

        with progress:
            result = workflow.evaluate_style(
                data,
                style,
                out,
                progress=progress,
                on=workflow.part_name(on),
                judge=judge,
                draws=draws,
                rows=rows,
                seed=seed,
                device=device,
                format=format_,
                reading=_reading(max_pixels, range_, page, pieces),
                cache=_caching(cache, verify),
                overwrite=overwrite,
            )
        _print_table(pair_table(result))
        print(f"report: {out / 'report.html'}")
        workflow.check_kept(result, min_kept)


@app.command()
def augment(
    data: Data,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder.")],
    copies: Annotated[int, typer.Option(min=1, help="Restyled copies of each training image.")] = 3,
    style: Annotated[str, typer.Option(metavar="NAME|FILE|RUN", help="Style weights.")] = "dsb2018",
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="LAYOUT", help="pairs, dsb2018, rle, coco, cellpose, stardist, nnunet, geojson or imagej."
        ),
    ] = "pairs",
    targets: Annotated[
        str | None, typer.Option(metavar="MODALITY,...", help="Restyle into these modalities only [default: all].")
    ] = None,
    balance: Annotated[bool, typer.Option("--balance", help="Balance the modalities of originals and copies.")] = False,
    exclude_own: Annotated[
        bool, typer.Option("--exclude-own", help="Never restyle into the image's own modality.")
    ] = False,
    lift: Annotated[
        float,
        typer.Option(
            metavar="POWER", help="Lift dim nuclei before restyling by a random power, from this to 1; 1: never."
        ),
    ] = 0.6,
    rgb: Annotated[
        bool, typer.Option("--rgb", help="Write grey images in colour, so that copies keep theirs.")
    ] = False,
    gate: UseGate = True,
    judge: GateJudge = "dsb2018",
    seed: Seed = 0,
    device: Device = "auto",
    format_: Format = None,
    max_pixels: MaxPixels = None,
    range_: ValueRange = None,
    page: Page = None,
    pieces: Pieces = False,
    cache: UseCache = True,
    verify: Verify = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a data set with restyled copies of its training images."""
    with _verb() as progress:
        from nucstyle.workflows import augment as workflow

        with progress:
            _say_if_new(resume, out, progress)
            workflow.augment(
                data,
                out,
                progress=progress,
                copies=copies,
                style=style,
                to=to,
                targets=_names(targets),
                balance=balance,
                exclude_own=exclude_own,
                lift=lift,
                rgb=rgb,
                gate=gate,
                judge=judge,
                seed=seed,
                device=device,
                format=format_,
                reading=_reading(max_pixels, range_, page, pieces),
                cache=_caching(cache, verify),
                resume=resume,
                overwrite=overwrite,
            )
        print(f"data set: {out / 'manifest.csv'}")
        print(f"report: {out / 'report.html'}")


@app.command()
def convert(
    data: Data,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder.")],
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="LAYOUT", help="pairs, dsb2018, rle, coco, cellpose, stardist, nnunet, geojson or imagej."
        ),
    ],
    max_pixels: MaxPixels = None,
    page: Page = None,
    pieces: Pieces = False,
    format_: Format = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a data set, or what predict found, in another layout."""
    with _verb() as progress:
        from nucstyle.workflows import convert as workflow

        with progress:
            _say_if_new(resume, out, progress)
            workflow.convert(
                data,
                out,
                to=to,
                progress=progress,
                format=format_,
                reading=_reading(max_pixels, page=page, pieces=pieces),
                resume=resume,
                overwrite=overwrite,
            )
        print(f"data set: {out}")
        print(f"report: {out / 'report.html'}")


@app.command()
def translate(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Files, folders, globs in quotes, or manifest.csv.")
    ],
    out: Out,
    style: Annotated[str, typer.Option(metavar="NAME|FILE|RUN", help="Style weights.")] = "dsb2018",
    exemplar: Annotated[
        Path | None, typer.Option(metavar="IMAGE", help="Also restyle into the style of this picture.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    max_pixels: MaxPixels = None,
    range_: ValueRange = None,
    page: Page = None,
    overwrite: Overwrite = False,
) -> None:
    """Show images in every modality: a grid and single pictures."""
    with _verb() as progress:
        from nucstyle.workflows import translate as workflow

        with progress:
            workflow.translate(
                images,
                out,
                progress=progress,
                style=style,
                exemplar=exemplar,
                seed=seed,
                device=device,
                reading=_reading(max_pixels, range_, page),
                overwrite=overwrite,
            )
        print(f"grid: {out / 'grid.png'}")
        print(f"pictures: {out / 'pictures'}")
        print(f"report: {out / 'report.html'}")


@app.command("train-segmenter")
def train_segmenter(
    data: Data,
    out: Out,
    recipe: Recipe = "lite",
    set_: Set = None,
    augment: Annotated[
        str,
        typer.Option(
            metavar="ARM",
            help="Added to the recipe's augmentations: none, or colour, recolour, histogram, reinhard, fourier, style, "
            "several joined by +.",
        ),
    ] = "none",
    style: Annotated[
        str | None, typer.Option(metavar="NAME|FILE|RUN", help="Style weights, for an arm with style.")
    ] = None,
    gate: UseGate = True,
    judge: GateJudge = "dsb2018",
    annotated: Masks = None,
    init: Annotated[
        str | None, typer.Option(metavar="NAME|FILE|RUN", help="Go on from these segmenter weights in a new run.")
    ] = None,
    trunk: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Weights for a ResNet-101, of ImageNet or COCO (.pth, .safetensors)."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    format_: Format = None,
    max_pixels: MaxPixels = None,
    range_: ValueRange = None,
    page: Page = None,
    pieces: Pieces = False,
    cache: UseCache = True,
    verify: Verify = False,
    dry_run: DryRun = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train the model that finds nuclei."""
    with _verb() as progress:
        from nucstyle.core.config import to_table
        from nucstyle.workflows import recipes
        from nucstyle.workflows import train_segmenter as workflow

        if dry_run:
            _print_config(to_table(recipes.segmenter_recipe(recipe, set_ or [])))
            return
        with progress:
            _say_if_new(resume, out, progress)
            workflow.train_segmenter(
                data,
                out,
                progress=progress,
                recipe=recipe,
                overrides=set_ or [],
                augment=augment,
                style=style,
                gate=gate,
                judge=judge,
                annotated=_names(annotated),
                init=init,
                trunk=trunk,
                seed=seed,
                device=device,
                format=format_,
                reading=_reading(max_pixels, range_, page, pieces),
                cache=_caching(cache, verify),
                resume=resume,
                overwrite=overwrite,
            )
        print(f"report: {out / 'report.html'}")


@app.command()
def compare(
    data: Data,
    out: Out,
    arms: Annotated[
        str, typer.Option(metavar="ARM,...", help="What is compared; see --augment of train-segmenter.")
    ] = "none,recolour,style,style+colour",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each arm.")] = 3,
    protocol: Annotated[
        str, typer.Option(help="full: all training masks; transfer: those of --annotated alone.")
    ] = "full",
    annotated: Annotated[
        str | None,
        typer.Option(metavar="MODALITY,...", help="Modalities whose masks transfer uses [default: the largest]."),
    ] = None,
    recipe: Recipe = "lite",
    set_: Set = None,
    style: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE|RUN", help="Style weights, for arms with style [default: dsb2018 in full]."),
    ] = None,
    gate: UseGate = True,
    judge: GateJudge = "dsb2018",
    trunk: Annotated[str | None, typer.Option(metavar="FILE", help="Weights for a ResNet-101.")] = None,
    on: Annotated[
        str,
        typer.Option(
            "--on", help="Sum up the scores of validation, test, or hidden: training images whose masks transfer hides."
        ),
    ] = "validation",
    tta: Annotated[str, typer.Option(metavar="MODE,...", help="Test-time augmentation; see predict.")] = "none,fast",
    cells: Annotated[
        str | None, typer.Option(metavar="ARM:SEED,...", help="Train only these, the rest elsewhere or later.")
    ] = None,
    test: Annotated[str | None, typer.Option(metavar="DATA", help="Score on other annotated images as well.")] = None,
    keep_weights: Annotated[
        bool, typer.Option("--keep-weights/--drop-weights", help="Keep the weights of each finished training.")
    ] = True,
    device: Device = "auto",
    format_: Format = None,
    max_pixels: MaxPixels = None,
    range_: ValueRange = None,
    page: Page = None,
    pieces: Pieces = False,
    cache: UseCache = True,
    verify: Verify = False,
    dry_run: DryRun = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train arms with several seeds alike, and say how much they differ."""
    with _verb() as progress:
        from nucstyle.core.config import to_table
        from nucstyle.data.run_folder import RESULT, read_json
        from nucstyle.report.comparison import OTHER, arm_table, difference_table
        from nucstyle.workflows import compare as workflow
        from nucstyle.workflows import recipes

        if dry_run:
            _print_config(to_table(recipes.segmenter_recipe(recipe, set_ or [])))
            return
        with progress:
            result = workflow.compare(
                data,
                out,
                progress=progress,
                arms=_names(arms) or [],
                seeds=seeds,
                protocol=protocol,
                annotated=_names(annotated),
                recipe=recipe,
                overrides=set_ or [],
                style=style,
                gate=gate,
                judge=judge,
                trunk=trunk,
                on=on,
                tta=_names(tta) or [],
                cells=_names(cells),
                test=test,
                keep_weights=keep_weights,
                device=device,
                format=format_,
                reading=_reading(max_pixels, range_, page, pieces),
                cache=_caching(cache, verify),
                resume=resume,
                overwrite=overwrite,
            )
        shown = [result]
        if test is not None:
            shown.append(read_json(out / protocol / OTHER / RESULT))
        for one in shown:
            print(f"{one['on']} (in brackets images in fields of view)")
            for table in (arm_table(one), difference_table(one, groups=["all", "minority"])):
                _print_table(table)
        print(f"report: {out / 'report.html'}")


@app.command()
def predict(
    images: Annotated[str, typer.Argument(metavar="IMAGES", help="A folder, file, glob in quotes, or manifest.csv.")],
    out: Out = Path("predicted"),
    weights: Annotated[str, typer.Option(metavar="NAME|FILE|RUN", help="Segmenter weights.")] = "lite-dsb2018",
    tta: Annotated[
        str | None,
        typer.Option(
            metavar="MODE",
            help="Test-time augmentation: none, fast, full; or as published: deep-retina, mirzaev "
            "[default: of the weights' recipe, fast of the shipped].",
        ),
    ] = None,
    diameter: Annotated[
        float | None,
        typer.Option(metavar="PX", min=1, help="Diameter of a typical nucleus in pixels [default: found out]."),
    ] = None,
    style: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE|RUN", help="Restyle images of other modalities into one first, with these style weights."
        ),
    ] = None,
    move_to: Annotated[
        str | None,
        typer.Option(
            "--move-to",
            metavar="MODALITY",
            help="Target of --style [default: the modality that the segmenter knows best].",
        ),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(metavar="PX", min=64, help="Tile side for large images [default: the segmenter's]."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change how answers are read: score, mask_threshold, min_area_px, fill_holes, ...; repeatable.",
        ),
    ] = None,
    device: Device = "auto",
    format_: Format = None,
    max_pixels: MaxPixels = None,
    range_: ValueRange = None,
    page: Page = None,
    pieces: Pieces = False,
    overwrite: Overwrite = False,
) -> None:
    """Find the nuclei of images: label maps and a table."""
    with _verb() as progress:
        from nucstyle.workflows import predict as workflow

        with progress:
            workflow.predict(
                images,
                out,
                progress=progress,
                weights=weights,
                tta=tta,
                diameter_px=diameter,
                tile_px=tile,
                overrides=set_ or [],
                style=style,
                move_to=move_to,
                device=device,
                format=format_,
                reading=_reading(max_pixels, range_, page, pieces),
                overwrite=overwrite,
            )
        print(f"label maps: {out / 'predictions'}")
        print(f"nuclei: {workflow.count_nuclei(out)}, a line each in {out / 'objects.csv'}")
        print(f"report: {out / 'report.html'}")


@app.command()
def evaluate(
    truth: Annotated[str, typer.Argument(metavar="TRUTH", help="An annotated data set.")],
    predicted: Annotated[
        str, typer.Argument(metavar="PREDICTED", help="A run of predict, or a folder of label images.")
    ],
    out: OptionalOut = None,
    format_: Format = None,
    max_pixels: MaxPixels = None,
    page: Page = None,
    pieces: Pieces = False,
    cache: UseCache = True,
    verify: Verify = False,
    overwrite: Overwrite = False,
) -> None:
    """Score predicted label maps with the DSB-2018 metric and its companions."""
    with _verb() as progress:
        from nucstyle.report.tables import score_table
        from nucstyle.workflows import evaluate as workflow

        with progress:
            result = workflow.evaluate(
                truth,
                predicted,
                out,
                progress=progress,
                format=format_,
                reading=_reading(max_pixels, page=page, pieces=pieces),
                cache=_caching(cache, verify),
                overwrite=overwrite,
            )
        _print_table(score_table(result))
        if out is not None:
            print(f"report: {out / 'report.html'}")


@app.command()
def submission(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run of predict.")]) -> None:
    """Write predicted nuclei as run lengths, as the Data Science Bowl takes them."""
    with _verb() as progress:
        from nucstyle.workflows import submission as workflow

        with progress:
            file = workflow.submission(run, progress=progress)
        print(f"submission: {file}")


@app.command()
def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]) -> None:
    """Write the page of a run folder again."""
    with _verb():
        from nucstyle.report.page import write_report

        print(f"report: {write_report(run)}")


@app.command()
def info(
    what: Annotated[
        str | None, typer.Argument(metavar="NAME|FILE|RUN", help="Weights or a run [default: the installation].")
    ] = None,
    out: OptionalOut = None,
    overwrite: Overwrite = False,
) -> None:
    """Describe the installation, a weights file or a run."""
    with _verb():
        from nucstyle.workflows import info as workflow

        for name, value in workflow.info(what, out, overwrite=overwrite).items():
            print(f"{name}: {value}")


def _reading(
    max_pixels: int | None = None, value_range: str | None = None, page: int | None = None, pieces: bool = False
) -> ReadOptions:
    """What was said about files that leave it open."""
    from nucstyle.data.decoders import MAX_PIXELS, ReadOptions, parse_range

    return ReadOptions(
        max_pixels=max_pixels or MAX_PIXELS,
        value_range=parse_range(value_range) if value_range is not None else None,
        page=page,
        connected_components=pieces,
    )


def _caching(use: bool, verify: bool) -> CacheUse:
    """What `--no-cache` and `--verify` ask for."""
    if verify and not use:
        raise OptionError("--verify and --no-cache exclude each other; give one of them")  # noqa: EM101
    return "verify" if verify else use


def _names(joined: str | None) -> list[str] | None:
    """`a,b` -> [a, b]."""
    return None if joined is None else [name.strip() for name in joined.split(",")]


def _say_if_new(resume: bool, out: Path, progress: ConsoleProgress) -> None:
    """Say that there is nothing to go on with: a misspelt folder would cost a whole training."""
    from nucstyle.data.run_folder import CONFIG
    from nucstyle.training.distributed import is_first_process

    if resume and not (out / CONFIG).is_file() and is_first_process():
        progress.say(f"--resume: no run in {out} yet; a new one begins")


_NO_MEMORY = (
    "nucstyle: not enough memory; use fewer or smaller images, or a smaller batch_size, or crops of fewer pixels"
)


@contextmanager
def _verb() -> Iterator[ConsoleProgress]:
    """Everything that surrounds a verb: the check of the installation, and errors as one line with an exit code."""
    from nucstyle.core.installation import check_torch_pair, check_working_folder
    from nucstyle.workflows.console import ConsoleProgress

    with _terminable():
        try:
            check_working_folder()
            check_torch_pair()
            yield ConsoleProgress()
        except NucstyleError as error:
            _fail(f"nucstyle: {_one_line(str(error))}", error.exit_code)
        except KeyboardInterrupt:
            _fail("nucstyle: stopped; where the verb has --resume, it goes on", 128 + signal.SIGINT)
        except BrokenPipeError:  # the reader of our output went away, as `head` does
            sys.stderr.close()
            raise typer.Exit(0) from None
        except (MemoryError, RuntimeError) as error:
            from nucstyle.core.memory import is_memory_shortage

            if not is_memory_shortage(error):
                raise
            _fail(_NO_MEMORY, 1)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _fail(f"nucstyle: {where}{error.strerror or error}; check the path, its permissions and the free space", 2)


@contextmanager
def _terminable() -> Iterator[None]:
    """Within the block, SIGTERM ends the verb like Ctrl-C does, with its own exit code."""

    def leave(number: int, _: FrameType | None) -> None:
        raise Interrupted("stopped by SIGTERM; where the verb has --resume, it goes on", number)  # noqa: EM101

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not the main thread, as in tests
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _one_line(text: str) -> str:
    """Without line breaks and control characters, which may come from file names."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.splitlines()))


def _fail(line: str, code: int) -> None:
    print(line.encode("utf-8", "replace").decode("utf-8"), file=sys.stderr)
    raise typer.Exit(code)


def _print_config(table: Mapping[str, Any]) -> None:
    from nucstyle.core.config import to_toml

    print(to_toml(table), end="")


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        first, *others = (f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join([f"{first.strip():<{widths[0]}}", *others]).rstrip())


def main() -> None:
    """The console script."""
    app(windows_expand_args=False)


if __name__ == "__main__":
    main()
