"""What the routes take and give, as OpenAPI shows it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from honeclip.serving.settings import Settings

MOST = Settings()

PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGklEQVR42mO8IyfHQApgYiARjGoY1TB0NAAAjEsBOPY5fDQAAAAASUVORK5CYII="
)
"""A picture of 16 x 16 pixels, for the examples."""

Image = Annotated[
    str,
    Field(
        description="An image file (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, DICOM) as base64, or as a data URI; an https URL "
        "where the server was started with --allow-url.",
        min_length=1,
        examples=[PICTURE],
    ),
]
Text = Annotated[str, Field(min_length=1, description=f"At most {MOST.text_characters:,} characters.")]
Images = Annotated[list[Image], Field(min_length=1, max_length=MOST.images)]


class Asked(BaseModel):
    """A request: no other key, no other type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Similarity(Asked):
    """Every image against every text."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"images": [PICTURE], "texts": ["a red square", "a photo of a cat"]}]}
    )
    images: Images
    texts: Annotated[list[Text], Field(min_length=1, max_length=MOST.texts)]


class SimilarityAnswer(BaseModel):
    """N images, M texts."""

    cosine: list[list[float]] = Field(description="N x M, between -1 and 1.")
    probabilities: list[list[float]] = Field(description="N x M: softmax over the texts, at the model's logit scale.")
    model: str


class Pair(Asked):
    """One image and one text."""

    image: Image
    text: Text


class Pairs(Asked):
    """Image and text of each pair."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"pairs": [{"image": PICTURE, "text": "a red square"}]}]})
    pairs: Annotated[list[Pair], Field(min_length=1, max_length=MOST.inputs)]


class Score(BaseModel):
    """Of one pair: a cosine, or what was wrong with it."""

    cosine: float | None = None
    error: str | None = None


class PairsAnswer(BaseModel):
    """In the order of the pairs; a bad one fails alone."""

    scores: list[Score]
    model: str


class Classify(Asked):
    """Images and the labels that they may have."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"images": [PICTURE], "labels": ["red", "green"], "template": "a {label} square"}]
        }
    )
    images: Images
    labels: Annotated[list[Text], Field(min_length=1, max_length=MOST.texts)]
    template: str | None = Field(
        default=None,
        min_length=1,
        max_length=1000,
        description="One prompt with {label} in it; without, the templates of the model's domain, averaged.",
    )
    mode: Literal["softmax", "independent"] | None = Field(
        default=None,
        description="softmax: one of the labels is right; independent: each by itself. Without: as the model was calibrated, "
        "else softmax.",
    )


class Label(BaseModel):
    """A label and its probability."""

    label: str
    probability: float


class Labels(BaseModel):
    """Of one image, best first."""

    labels: list[Label]


class ClassifyAnswer(BaseModel):
    """An entry an image, in their order."""

    results: list[Labels]
    mode: Literal["softmax", "independent"]
    calibrated: bool = Field(description="Whether the model's fitted temperature is for these labels.")
    domain: str
    model: str


class Search(Asked):
    """A text or an image."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "a red square", "top": 3}]})
    text: Text | None = None
    image: Image | None = None
    top: int = Field(default=10, ge=1, le=1000)


class Hit(BaseModel):
    """A row of the index."""

    id: int = Field(description="The row of the data that was embedded, from 1.")
    score: float = Field(description="Cosine.")
    image: str = Field(description="As the data names it.")
    caption: str | None = None
    matched: Literal["image", "caption"] = Field(description="Which of the two is that near.")


class SearchAnswer(BaseModel):
    """Nearest first."""

    results: list[Hit]
    model: str


class TextInput(Asked):
    """A text among inputs."""

    text: Text


class ImageInput(Asked):
    """An image among inputs."""

    image: Image


Input = Text | TextInput | ImageInput


class Embeddings(Asked):
    """OpenAI's shape; besides strings, {"text": ...} and {"image": ...}, mixed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"input": "a red square"},
                {"input": ["a red square", {"image": PICTURE}], "encoding_format": "base64"},
            ]
        }
    )
    input: Text | Annotated[list[Input], Field(min_length=1, max_length=MOST.inputs)]
    model: str | None = Field(default=None, description="Any name: there is one model, and the answer says which.")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(
        default=None, ge=1, description="Only the model's own: its embeddings cannot be cut short."
    )
    user: str | None = Field(default=None, description="Not looked at.")


class Embedding(BaseModel):
    """One input's."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="Unit length; as base64: float32, little-endian.")


class Usage(BaseModel):
    """Tokens of the texts; images count none."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """In the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class Model(BaseModel):
    """A model that answers."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "honeclip"


class Models(BaseModel):
    """The one model."""

    object: Literal["list"] = "list"
    data: list[Model]


class Fault(BaseModel):
    """What was wrong."""

    message: str
    type: str
    code: str
    param: str | None = None


class Error(BaseModel):
    """Every error, in OpenAI's shape."""

    error: Fault


class State(BaseModel):
    """Of a probe."""

    status: str
    reason: str = ""
