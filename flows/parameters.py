"""What each stage is asked for: the parameters of the flows, whose descriptions and examples are forms in the UI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cryoflow.errors import BadInput
from cryoflow.micrographs.find import parse_remaps
from cryoflow.unpicker.train_options import TrainOptions


def _checked_remaps(texts: tuple[str, ...]) -> tuple[str, ...]:
    try:
        parse_remaps(texts)
    except BadInput as error:
        raise ValueError(str(error)) from None
    return texts


PickerName = Literal["cryolo", "topaz", "warp", "epicker", "cryosegnet", "eman2", "relion", "cryosparc"]
Share = Annotated[float, Field(ge=0, lt=1)]

Database = Annotated[Path, Field(description="folder of the text database", examples=["/data/picks"])]
RunFolder = Annotated[
    Path, Field(description="folder to write to; a second run goes on with it", examples=["/data/runs/november"])
]
Output = Annotated[Path, Field(description="folder to write to", examples=["/data/training/cryolo"])]
Entries = Annotated[
    tuple[str, ...],
    Field(
        description="database entries, PROJECT/KIND_JOB; none takes the best one of each project",
        examples=[["P190/NonUniform_J60", "apoferritin/Refine3D_job035"]],
    ),
]
Remaps = Annotated[
    tuple[str, ...],
    Field(description="folders that have moved since a project was made", examples=[["/old/store=/new/store"]]),
    AfterValidator(_checked_remaps),
]
Diameter = Annotated[
    float | None,
    Field(gt=0, description="particle diameter in angstrom; none takes what the jobs say", examples=[160.0]),
]
Epochs = Annotated[int, Field(ge=1, description="train the unpicker for at most so many epochs")]
Patience = Annotated[int, Field(ge=1, description="stop when so many epochs brought no gain")]
Chunk = Annotated[int, Field(ge=1, description="micrographs that one task works on")]
ShardMicrographs = Annotated[
    int,
    Field(
        ge=1,
        description="where stages are jobs of a cluster: micrographs that one job reads, writes, picks or judges; "
        "jobs shorter than some minutes mostly wait and start",
    ),
]
Seed = Annotated[int, Field(ge=0, description="another number is another split and another start")]


def _show_examples(schema: dict[str, Any]) -> None:
    """Say examples in the descriptions: Prefect's pages show nothing else of a field."""
    for field in schema.get("properties", {}).values():
        if examples := field.get("examples"):
            first = examples[0]
            text = ", ".join(map(str, first)) if isinstance(first, list) else str(first)
            field["description"] = f"{field.get('description', '')} (such as {text})".strip()


class Form(BaseModel):
    """Base of the forms: unknown names are refused, values do not change on the way."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_show_examples)


class IngestParameters(Form):
    """Which projects to read, into which database."""

    roots: tuple[Path, ...] = Field(
        description="folders below which finished projects lie", examples=[["/data/projects"]], min_length=1
    )
    database: Database
    remaps: Remaps = ()


class ExportParameters(Form):
    """Which picks to write for which picker."""

    picker: PickerName = Field(description="the program to write for")
    database: Database
    output: Output
    entries: Entries = ()
    diameter_A: Diameter = None
    box_px: int | None = Field(default=None, gt=0, description="one box for all entries, instead of a diameter")
    validation: Share = Field(default=0.2, description="share of the micrographs that validate")
    test: Share = Field(default=0.0, description="share of the micrographs that the picker never sees")
    seed: Seed = 0
    settings: dict[str, str] = Field(default={}, description="settings of the picker by hand")
    shard_micrographs: ShardMicrographs = 1000


class PickingParameters(Form):
    """Which picker to train on which picks, and what to pick with it. The new picks become entries of the database."""

    picker: Literal["cryolo", "topaz", "epicker"] = Field(description="the program to train and to run")
    database: Database
    output: Output
    entries: Entries = ()
    projects: tuple[str, ...] = Field(
        default=(), description="train on the best entry of each of these projects; none takes all"
    )
    to_pick: tuple[str, ...] = Field(default=(), description="entries whose micrographs are picked")
    micrographs: tuple[Path, ...] = Field(
        default=(), description="MRC files or folders of them to pick", examples=[["/data/new/micrographs"]]
    )
    pixel_size_A: float | None = Field(
        default=None, gt=0, description="of these micrographs, where their headers have none"
    )
    diameter_A: Diameter = None
    validation: Share = Field(default=0.2, description="share of the training micrographs that validate")
    seed: Seed = 0
    settings: dict[str, str] = Field(default={}, description="settings of the picker by hand")
    threshold: float | None = Field(default=None, description="picks of a lower score are left out; none: the picker's")
    programs: Path | None = Field(default=None, description="folder with the picker's programs; PATH is searched too")
    container: Literal["", "docker", "apptainer"] = Field(default="", description="run the picker in an image")
    image: str = Field(default="", description="that image")
    gpus: int = Field(default=1, ge=0, description="GPUs; 0 for a CPU")
    cpus: int = Field(default=4, ge=1, description="processes that read and write")
    shard_micrographs: ShardMicrographs = 1000


class TrainingParameters(Form):
    """What to train the unpicker on: all picks of each project's autopick job, labelled by what became of them."""

    database: Database
    model: Path = Field(description="folder of the model to write", examples=["/data/models/unpicker"])
    projects: tuple[str, ...] = Field(default=(), description="projects of the database to learn from; none takes all")
    diameter_A: Diameter = None
    epochs: Epochs = TrainOptions.epochs
    patience: Patience = TrainOptions.patience
    validation: Share = Field(default=0.2, description="share of the micrographs that the threshold is chosen on")
    test: Share = Field(default=0.2, description="share of the micrographs that are kept for the evaluation")
    seed: Seed = 0
    overwrite: bool = Field(default=False, description="replace another model in that folder")


class EvaluationParameters(Form):
    """Which picks to compare with which."""

    database: Database
    entries: Entries
    reference_database: Database
    output: Path = Field(description="JSON file to write", examples=["/data/evaluation.json"])
    model: Path | None = Field(default=None, description="count only micrographs that this model was not trained on")
    radius: float = Field(
        default=0.25, gt=0, description="a pick is right within so many diameters of a reference pick"
    )
    diameter_A: Diameter = None


class ReportParameters(Form):
    """What to report on."""

    database: Database
    output: Path = Field(description="the HTML page to write", examples=["/data/report.html"])
    model: Path | None = Field(default=None, description="model of the unpicker")
    exports: tuple[Path, ...] = Field(default=(), description="folders of exported training sets")
    evaluation: Path | None = Field(default=None, description="JSON file that the evaluation wrote")
    trace: Path | None = Field(default=None, description="trace.tsv of a pipeline's output: what its stages cost")
    title: str = Field(default="cryoflow report", description="title of the page")


class PipelineParameters(Form):
    """The whole way: ingest, export, train the unpicker, un-pick, report."""

    roots: tuple[Path, ...] = Field(
        description="folders below which finished projects lie", examples=[["/data/projects"]], min_length=1
    )
    output: RunFolder
    database: Path | None = Field(
        default=None, description="folder of the text database; none: `database` in the output"
    )
    pickers: tuple[PickerName, ...] = Field(
        default=("cryolo", "topaz"), description="the programs to write training sets for"
    )
    remaps: Remaps = ()
    diameter_A: Diameter = None
    epochs: Epochs = TrainOptions.epochs
    patience: Patience = TrainOptions.patience
    test: Share = Field(default=0.2, description="share of the micrographs that are kept for the evaluation")
    seed: Seed = 0
    chunk_micrographs: Chunk = 100
    shard_micrographs: ShardMicrographs = 1000
    reference_database: Path | None = Field(
        default=None,
        description="database of reference picks of the same projects, where there are any: evaluates the result",
    )


class DemoParameters(Form):
    """The whole way on two simulated projects."""

    output: RunFolder
    n_micrographs: int = Field(default=12, ge=5, description="micrographs of each project")
    epochs: int = Field(default=12, ge=1, description="epochs of the unpicker")
    seed: Seed = 1
