"""What the interface answers, for its OpenAPI description; the answers themselves are made by the verbs' writers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class PackedMask(BaseModel):
    """A mask of the whole image as COCO's packed run lengths, which pycocotools decodes."""

    size: tuple[int, int] = Field(description="Height and width in pixels.")
    counts: str


class FoundObject(BaseModel):
    """An object in an image."""

    class_id: int
    class_name: str
    confidence: float = Field(ge=0, le=1)
    box_xyxy: tuple[float, float, float, float] = Field(description="Corners in pixels of the whole, upright image.")
    mask: PackedMask | None = Field(None, description="Of models that find masks alone.")


class LikelyClass(BaseModel):
    """A class that an image may show."""

    class_id: int
    class_name: str
    probability: float = Field(ge=0, le=1)


class Milliseconds(BaseModel):
    """How long the stages of an answer took."""

    decode: float = Field(description="Reading the file.")
    preprocess: float = Field(description="Resizing it to the network's input.")
    run: float = Field(description="The network and what follows it; of images that share a pass, a share of it each.")
    total: float = Field(description="From the last byte of the image to the answer, with all waiting.")


class _ImageAnswer(BaseModel):
    source: str = Field(description="The name that the image was sent with.")
    model: str
    runtime: str
    milliseconds: Milliseconds


class FoundObjects(_ImageAnswer):
    """What a detector finds in an image."""

    frame: None = Field(None, description="Always null; it is in the lines of videos.")
    width: int
    height: int
    detections: list[FoundObject] = Field(description="Best first.")


class LikelyClasses(_ImageAnswer):
    """What a classifier says of an image."""

    classes: list[LikelyClass] = Field(description="The likeliest, best first.")


class FailedImage(BaseModel):
    """An image of several that could not be read."""

    source: str
    error: str


class BatchAnswer(BaseModel):
    """What was found in several images, in their order."""

    results: list[FoundObjects | LikelyClasses | FailedImage]


class InputSize(BaseModel):
    """Size of a network's input in pixels."""

    height: int
    width: int


class ConfRange(BaseModel):
    """What may be asked as ``conf``."""

    default: float
    least: float = Field(description="Of a file that suppresses boxes in its graph, the score that it does so from.")


class IouRange(BaseModel):
    """What may be asked as ``iou``."""

    default: float
    fixed: bool = Field(description="Whether no other value does anything.")


class ModelEntry(BaseModel):
    """A model in a runtime."""

    name: str
    runtime: str
    task: Literal["detect", "classify"]
    classes: list[str]
    input: InputSize
    conf: ConfRange | None = None
    iou: IouRange | None = None
    max_detections: int | None = None


class ModelEntries(BaseModel):
    """All models; the first is run where a request names none."""

    models: list[ModelEntry]


class Health(BaseModel):
    """Whether requests are answered."""

    status: Literal["ready", "starting"]


class Problem(BaseModel):
    """Why a request is not answered."""

    detail: str
