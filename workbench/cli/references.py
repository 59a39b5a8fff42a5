"""workbench references."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.bar import image_bar
from workbench.cli.common import print_json, print_table, say
from workbench.cli.options import (
    WHAT,
    BatchSizeOption,
    JsonOption,
    WeightsOption,
    WorkspaceOption,
    split_names,
    weight_paths,
)
from workbench.errors import RequestError

app = typer.Typer(
    name="references",
    no_args_is_help=True,
    help="Real images that samples are compared with: build, list, and what they score themselves.",
)

ImagesOption = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        help="Folder of images, or of COCO 2014 (val2014/ and annotations/).",
        rich_help_panel=WHAT,
    ),
]
CaptionsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Captions: .txt (a line for each image, in sorted order), .jsonl, .json or .csv of "
        "file and caption, or COCO's annotations.",
        rich_help_panel=WHAT,
    ),
]
ChoiceOption = Annotated[
    int | None,
    typer.Option(
        "--samples",
        min=2,
        help="Take only so many of the images, by a seeded choice. COCO's protocols take 10000 and "
        "30000.",
        show_default="all",
        rich_help_panel=WHAT,
    ),
]
ChoiceSeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed", min=0, help="Seed of that choice.", show_default="0", rich_help_panel=WHAT
    ),
]
ResolutionOption = Annotated[
    int,
    typer.Option(
        min=8, help="Width and height in pixels, after a center crop.", rich_help_panel=WHAT
    ),
]
NetworkListOption = Annotated[
    list[str] | None,
    typer.Option(
        "--network",
        metavar="NETWORK,...",
        help="Networks that look at the images, comma-separated or repeated; the first one is for "
        "fid, kid, precision and recall: inception, dinov2, clip_features, cmmd_features, or a "
        "bundled data set's own.",
        show_default="inception",
        rich_help_panel=WHAT,
    ),
]


@app.command(
    epilog="Example:  workbench references build coco10k --images coco --samples 10000 "
    "--weights inception=inception-2015-12-05.pt"
)
def build(
    name: Annotated[str, typer.Argument(help="Name of the reference.")],
    images: ImagesOption,
    captions: CaptionsOption = None,
    samples: ChoiceOption = None,
    seed: ChoiceSeedOption = None,
    resolution: ResolutionOption = 256,
    network: NetworkListOption = None,
    weights: WeightsOption = None,
    batch_size: BatchSizeOption = 50,
    workspace: WorkspaceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Make a reference: images cropped and resized as samples will be, seen by each network.

    The same command continues where it was cut off; --network adds networks to a reference.
    """
    from workbench.evaluation import FeatureExtractors
    from workbench.evaluation.networks import WeightFiles
    from workbench.evaluation.reference_build import BuildRequest, build_reference
    from workbench.training.parallel import choose_device
    from workbench.workspace import open_workspace

    if seed is not None and samples is None:
        raise RequestError("--seed decides the choice that --samples makes: add --samples N.")
    place = open_workspace(workspace)
    files = WeightFiles(place.root / "weights", weight_paths(weights))
    networks = split_names(network or ["inception"], "--network")
    request = BuildRequest(
        name, images, captions, resolution, networks, samples, seed or 0, batch_size
    )
    with image_bar(name) as show:
        extractors = FeatureExtractors(place.cache, files, choose_device())
        built = build_reference(place, request, extractors, show)
    if json_output:
        print_json({**built.record.as_dict(), "folder": str(built.folder)})
    else:
        record = built.record
        say(f"{record.name}: {record.selection}; {record.size} pixels; identity {record.identity}")
        typer.echo(built.folder)


@app.command(
    epilog="Example:  workbench references write scenes-val scenes-folder --images 1000 --side 64"
)
def write(
    name: Annotated[str, typer.Argument(help="Bundled data.", metavar="NAME")],
    folder: Annotated[Path, typer.Argument(help="New folder.", metavar="FOLDER")],
    images: Annotated[
        int | None,
        typer.Option(min=2, help="Only the first so many.", show_default="all"),
    ] = None,
    side: Annotated[int, typer.Option(min=8, help="Width and height in pixels.")] = 64,
) -> None:
    """Write bundled data as a folder of PNG files and captions, as a data source or a reference.

    It is then read like anybody's: data.source=FOLDER, references build --images FOLDER --captions
    FOLDER/captions.jsonl.
    """
    from workbench.data.written import write_folder

    with image_bar(name) as show:
        count = write_folder(name, folder, side, images, show)
    say(f"{count} images of {name} at {side} pixels, with their captions")
    typer.echo(folder)


@app.command("list", epilog="Example:  workbench references list")
def list_(workspace: WorkspaceOption = None, json_output: JsonOption = False) -> None:
    """The references of this workspace, and the bundled ones."""
    from workbench.data.bundled import BUNDLED
    from workbench.evaluation import list_references
    from workbench.evaluation.references import BundledReference
    from workbench.workspace import open_workspace

    built = list_references(open_workspace(workspace, create=False))
    bundled = [BundledReference(data).as_dict() for data in BUNDLED.values()]
    listed = [*bundled, *(reference.record.as_dict() for reference in built)]
    if json_output:
        print_json(listed)
        return
    rows = [
        [
            one["name"],
            str(one["images"]),
            str(one["size"] or ""),
            ", ".join(one["networks"]),
            one["identity"],
            one["selection"],
        ]
        for one in listed
    ]
    print_table(["name", "images", "px", "networks", "identity", "images are"], rows)


@app.command(epilog="Example:  workbench references floor digits --samples 2000")
def floor(
    name: Annotated[str, typer.Argument(help="One of `workbench references list`.")],
    samples: Annotated[
        int | None,
        typer.Option(min=2, help="Number of fresh images.", show_default="as many as it has"),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            help="Network whose features are compared.", show_default="the one behind its fid"
        ),
    ] = None,
    splits: Annotated[int, typer.Option(min=2, help="Number of random splits into halves.")] = 20,
    weights: WeightsOption = None,
    workspace: WorkspaceOption = None,
    json_output: JsonOption = False,
) -> None:
    """The FID of fresh real images against a reference, from its halves: mean, and where one lies.

    Samplers that score far below repeat the reference's own images.
    """
    from workbench.evaluation import FeatureExtractors, open_reference
    from workbench.evaluation.intervals import frechet_floor
    from workbench.evaluation.networks import WeightFiles
    from workbench.training.parallel import choose_device
    from workbench.workspace import open_workspace

    place = open_workspace(workspace)
    reference = open_reference(place, name)
    files = WeightFiles(place.root / "weights", weight_paths(weights))
    seen_by = network or reference.network
    extractor = reference.adapt(
        FeatureExtractors(place.cache, files, choose_device()).find(seen_by)
    )
    rows = reference.rows(seen_by, extractor).rows
    files.check_all_used()
    count = samples or len(rows)
    found = frechet_floor(rows, reference.kinds, count, splits)
    if json_output:
        print_json({"reference": name, "network": seen_by, "samples": count, **found})
        return
    typer.echo(
        f"Frechet distance of {count} fresh real images to {name} ({seen_by}): "
        f"{found['mean']:.3g}, {found['low']:.3g} to {found['high']:.3g} in {splits} splits"
    )
