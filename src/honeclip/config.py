"""The config of a run: TOML sections with units and defaults, read strictly, every fault at once.

It is known to training and the command line only: everything below takes plain arguments. A value comes from the
default, the config file, or `--set section.key=value`, in that order, and a fault says from which of them.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from honeclip import notices, schedule, sizes
from honeclip.errors import ConfigError
from honeclip.sizes import SizeStage


def _duration(value: Any) -> Any:
    schedule.parse(value)
    return value


def _length(value: Any) -> Any:
    if value == "auto":
        return value
    length = schedule.parse(value)
    if length.unit == "percent":
        raise ValueError(f"{value!r} is a share of the run, and this is the length of the run itself")
    if length.value == 0:
        raise ValueError(f"{value!r} is no length: a run has at least one step")
    return value


def _strictly_number(value: Any) -> Any:
    """TOML knows numbers from text: "3" in quotes is no number, and true is no 1."""
    if isinstance(value, bool) or (isinstance(value, str) and value != "auto"):
        raise ValueError(f"{value!r} is no number")
    return value


def _batches(value: Any) -> Any:
    """A size, or the shares of the run from which on each size holds: [[0.0, 128], [0.5, 1024]]."""
    if not isinstance(value, list | tuple):
        return _strictly_number(value)
    rows = [tuple(one) if isinstance(one, list | tuple) else (one,) for one in value]
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for row in rows for one in row)
    if not rows or not numbers or any(len(row) != 2 for row in rows):
        raise ValueError("a growing batch is a list of [share of the run, pairs], such as [[0.0, 128], [0.5, 1024]]")
    shares = [share for share, _ in rows]
    if shares[0] != 0 or not all(a < b for a, b in pairwise([*shares, 1])):
        raise ValueError(f"the shares {shares} must begin at 0.0, rise, and stay below 1")
    if any(not float(size).is_integer() or size < 1 for _, size in rows):
        raise ValueError(f"{[size for _, size in rows]}: each batch is a whole number of pairs, at least 1")
    return [(float(share), int(size)) for share, size in rows]


def _weights(value: Any) -> Any:
    """Weights of parts by name: numbers that are not negative and not all 0, or points [share of the run, weight]."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r} is no table of weights, such as {{images = 0.2}}")
    points = {name: one if isinstance(one, list | tuple) else [(0.0, one)] for name, one in value.items()}
    for name, row in points.items():
        if not row or any(not isinstance(one, list | tuple) or len(one) != 2 for one in row):
            raise ValueError(f"{name}: a weight is a number or a list of [share of the run, weight]")
        numbers = [x for one in row for x in one]
        if any(isinstance(x, bool) or not isinstance(x, int | float) or not 0 <= x < math.inf for x in numbers):
            raise ValueError(f"{name}: {row}: weights and shares are numbers, 0 or above")
        shares = [share for share, _ in row]
        if shares != sorted(shares) or shares[-1] > 1:
            raise ValueError(f"{name}: the shares {shares} must ascend from 0 to 1")
    if "infonce" in points and "siglip" in points and all(weight == 0 for row in points.values() for _, weight in row):
        raise ValueError("all weights are 0, so there is nothing to learn: set one above 0")
    return {
        name: value[name] if not isinstance(value[name], list) else tuple(map(tuple, value[name])) for name in value
    }


def _scales(value: Any) -> Any:
    """Shares of the image size, the whole size first; a single share is none."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"{value!r} is no list of shares, such as [1.0, 0.5]")
    if any(isinstance(one, bool) or not isinstance(one, int | float) or not 0 < one <= 1 for one in value):
        raise ValueError(f"{list(value)}: each scale is a share of the image size, above 0 and at most 1")
    if value and (1.0 not in value or len(value) < 2 or len(set(value)) < len(value)):
        raise ValueError(f"{list(value)}: 1.0 and at least one smaller share, none twice")
    return tuple(sorted(map(float, value), reverse=True))


def _several(value: Any) -> Any:
    """`--set notify.when=done` is a list of one."""
    return [value] if isinstance(value, str) else value


def _moment(value: str) -> str:
    asked = notices.target(value)
    return value if asked is None else str(asked)


def _shown(address: SecretStr) -> str:
    return notices.masked(address.get_secret_value())


Steps = Annotated[str | int, AfterValidator(_duration)]
Length = Annotated[str | int, AfterValidator(_length)]
Share = Annotated[float, BeforeValidator(_strictly_number), Field(ge=0, le=1)]
NotNegative = Annotated[float, BeforeValidator(_strictly_number), Field(ge=0, allow_inf_nan=False)]
AboveZero = Annotated[float, BeforeValidator(_strictly_number), Field(gt=0, allow_inf_nan=False)]
Decay = Annotated[float, BeforeValidator(_strictly_number), Field(gt=0, le=1)]
Positive = Annotated[int, BeforeValidator(_strictly_number), Field(ge=1)]
Batches = Annotated[tuple[tuple[float, int], ...] | Annotated[int, Field(ge=1)], BeforeValidator(_batches)]
Count = Annotated[int, BeforeValidator(_strictly_number), Field(ge=0)]
Scale = Annotated[float, BeforeValidator(_strictly_number), Field(ge=1, le=100)]
Scales = Annotated[tuple[float, ...], BeforeValidator(_scales)]
Weights = Annotated[
    dict[Literal["infonce", "siglip", "images"], float | tuple[tuple[float, float], ...]], BeforeValidator(_weights)
]
Sizes = Annotated[
    Literal["native", "auto"] | tuple[SizeStage, ...] | Annotated[int, Field(ge=1)], BeforeValidator(sizes.read)
]


Moments = Annotated[tuple[Annotated[str, AfterValidator(_moment)], ...], BeforeValidator(_several)]
# what is written, printed or compared of an address is masked; only `get_secret_value` has it whole
Address = Annotated[SecretStr, PlainSerializer(_shown)]
Addresses = Annotated[tuple[Address, ...], BeforeValidator(_several)]


class Section(BaseModel):
    """One table of the file: frozen, and no unknown key."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(Section):
    """`[data]`: what to train on."""

    path: str = Field("", description="manifest (CSV, TSV, JSONL, Parquet), folder with a pairs.csv, or shards")
    domain: str = Field("general", description="a domain's name or file (`honeclip domains`)")
    columns: dict[str, str] = Field({}, description="other column names, for example {image = 'photo'}")
    max_bad_fraction: Share = Field(0.01, description="share of broken rows above which the run ends")
    workers: Literal["auto"] | Count = Field("auto", description="decoding processes")


class Model(Section):
    """`[model]`: what to start from and which parts of it learn."""

    source: str = Field("starter", description="starter, NAME:TAG, hf-hub:ORG/REPO, a folder, random:NAME")
    freeze: Literal["auto", "none", "image", "text", "towers"] = Field(
        "auto",
        description="bodies that stay as they are (auto: both for starter, none for a CLIP, nor with lora_rank or last_blocks)",
    )
    lora_rank: Count = Field(0, description="rank of the adapters through which bodies learn (0: none, whole bodies)")
    last_blocks: Count = Field(0, description="blocks of each body that learn, counted from its end (0: all)")
    context_length: Literal["native"] | Positive = Field("native", description="text length in tokens")

    @model_validator(mode="before")
    @classmethod
    def _bodies_learn(cls, given: Any) -> Any:
        """Who asks how bodies learn does not mean `auto` to freeze them: then it is `none`."""
        asked = isinstance(given, Mapping) and (given.get("lora_rank") or given.get("last_blocks"))
        return {**given, "freeze": "none"} if asked and given.get("freeze", "auto") == "auto" else given

    @field_validator("lora_rank", "last_blocks")
    @classmethod
    def _of_something(cls, value: int, info: ValidationInfo) -> int:
        if value and info.data.get("freeze") == "towers":
            raise ValueError("model.freeze=towers lets no body learn: use none, image or text, or 0 here")
        return value


class Train(Section):
    """`[train]`: how long, how much at once, how fast."""

    length: Length = Field(
        "auto", description="steps, epochs, or minutes (auto: enough for the data, at least 60 steps)"
    )
    batch: Batches = Field(
        256,
        description="effective batch in pairs; lowered to the rows where there are fewer; "
        "[[0.0, 128], [0.5, 1024]] grows it at shares of the run",
    )
    accumulation: Literal["exact", "plain"] = Field(
        "exact",
        description="plain: each micro-batch a loss of its own, for comparison; memory.micro_batch then decides what is "
        "learned and must be set",
    )
    patience: Count = Field(0, description="evaluations without a better score before the run ends (0: never)")
    lr: Literal["auto"] | AboveZero = Field(
        "auto", description="peak learning rate (auto: heads 1e-3, LoRA 2e-4, whole towers 1e-5)"
    )
    weight_decay: NotNegative = Field(0.1, description="decoupled; none on norms, biases, scales")
    warmup: Steps = Field("5%", description="duration of the linear warm-up")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="learning rate after the warm-up")
    layer_decay: Decay = Field(1.0, description="factor on the learning rate from each block to the one below it")
    seed: Count = Field(0, description="decides order, augmentation, dropout and fresh heads")
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp64"] = Field("auto", description="fp64: CPU only, for proofs")
    grad_clip: NotNegative = Field(1.0, description="largest global gradient norm (0: no clipping)")


class Loss(Section):
    """`[loss]`: what is minimised."""

    kind: Literal["infonce", "siglip"] = Field("infonce", description="contrastive loss")
    temperature: Literal["learned", "fixed", "scheduled", "auto"] = Field(
        "learned",
        description="what becomes of the logit scale (auto: it holds the effective number of negatives of a batch)",
    )
    logit_scale: Literal["native"] | AboveZero = Field("native", description="logit scale at the start")
    scheduled_scales: tuple[Scale, Scale] = Field(
        (10.0, 100.0), description="logit scales of temperature=scheduled, at the start and at the end"
    )
    temperature_shape: Literal["cosine", "linear"] = Field("cosine", description="way of temperature=scheduled")
    effective_negatives: Share = Field(
        0.8, description="of N negatives a row, temperature=auto lets N to this power have a say"
    )
    targets: Literal["captions", "pairs", "labels", "soft"] = Field(
        "captions",
        description="positives: captions: equal captions or images; pairs: the diagonal; labels: a label in common as "
        "well; soft: captions, and what the domain holds for similar",
    )
    positives: Literal["auto", "mean", "sum", "masked"] = Field(
        "auto",
        description="what positives beside the own pair are (sum: alternatives to it; masked: no negatives, nothing else; "
        "auto: on captions sum for infonce and masked for siglip, else mean)",
    )
    blend: Share = Field(0.3, description="share of soft targets that follows the similarity")
    label_smoothing: Share = Field(0.0, description="share of the target that is spread over the whole batch")
    hard_negatives: NotNegative = Field(0.0, description="beta: how much more the harder negatives weigh (0: equally)")
    hard_captions: bool = Field(
        False, description="each image is also told from its caption with one word made wrong by the domain's rules"
    )
    mining: Count = Field(
        0, description="near misses of each row that come into its batch, found anew each epoch (0: none)"
    )
    scales: Scales = Field(
        (), description="shares of the image size that are learned from together, such as [1.0, 0.5]"
    )
    weights: Weights = Field(
        {},
        description="further parts {infonce, siglip, images} and their weights, or [[share of the run, weight], ...]",
    )
    balance: Literal["fixed", "uncertainty"] = Field("fixed", description="whether the weights of the parts learn")
    tile: Literal["auto"] | Positive = Field("auto", description="rows of the logits held at once")


class Memory(Section):
    """`[memory]`: how fast, never what."""

    budget_gb: Literal["auto"] | AboveZero = Field(
        "auto", description="memory of the training process in GB (1e9 bytes)"
    )
    micro_batch: Literal["auto"] | Positive = Field("auto", description="pairs through a tower at once")
    keep: Literal["auto"] | Count = Field("auto", description="micro-batches whose graphs stay from the first pass")
    attention_slice: Literal["auto"] | Count = Field("auto", description="queries of attention at once (0: no slices)")
    recompute: Literal["auto"] | bool = Field("auto", description="blocks keep their inputs and compute the rest again")


class Resolution(Section):
    """`[resolution]`: the image size in pixels."""

    stages: Sizes = Field(
        "native",
        description="native, auto, one size in pixels, or [[0.0, 160], [0.6, 224]]: sizes from shares of the run on, rounded "
        "to the patch; tables {at, size, lr_scale, weight_decay, warmup, strength, patch_dropout, table_first, plateau}: more",
    )


class Evaluate(Section):
    """`[evaluate]`: scores while training."""

    every: Steps = Field("10%", description="duration between evaluations on val")
    forgetting_data: str = Field(
        "", description="a data set whose scores must not fall, in any form that data.path takes"
    )
    forgetting_domain: str = Field("", description="domain of its prompts and its score (empty: that of the run)")
    max_forgetting: Share = Field(
        0.05,
        description="by how much its selection score on val may fall below that of the start, 0 to 1 (1: never too much)",
    )
    on_forgetting: Literal["stop", "rewind"] = Field(
        "stop",
        description="above max_forgetting the run ends, or goes back to the last checkpoint within it with half the rate",
    )


class Checkpoint(Section):
    """`[checkpoint]`: what survives."""

    every: Steps = Field("10%", description="duration between saves; shares not oftener than every 60 s")
    keep_last: Positive = Field(2, description="newest checkpoints kept")
    keep_best: bool = Field(True, description="whether the best one is kept as well")


class Notify(Section):
    """`[notify]`: who is told of the run, and when."""

    urls: Addresses = Field(
        (),
        description="apprise addresses, desktop://, or env:NAME for a variable that holds one (docs/notifications.md)",
    )
    when: Moments = Field(
        ("best", "failed", "done"),
        description=f"{', '.join(notices.MOMENTS)}, or comparisons of figures on val such as R@10>0.6",
    )


class Report(Section):
    """`[report]`: what the report shows."""

    pictures: bool = Field(True, description="example pictures in the report")


class Config(Section):
    """Everything that decides a run. `RUN/run.toml` is one of these, written out in full."""

    data: Data = Data()
    model: Model = Model()
    train: Train = Train()
    loss: Loss = Loss()
    memory: Memory = Memory()
    resolution: Resolution = Resolution()
    evaluate: Evaluate = Evaluate()
    checkpoint: Checkpoint = Checkpoint()
    notify: Notify = Notify()
    report: Report = Report()


def keys() -> dict[str, Any]:
    """Every `section.key` and its default."""
    return {
        f"{section}.{key}": field.default
        for section, table in Config.model_fields.items()
        for key, field in type(table.default).model_fields.items()
    }


def describe() -> str:
    """One line a key, with default and meaning, for `honeclip fit --help`."""
    lines = []
    for section, table in Config.model_fields.items():
        for key, field in type(table.default).model_fields.items():
            lines.append(f"{section}.{key} = {_toml_value(field.default)}: {field.description}")
    return "\n".join(lines)


def load(
    file: Path | None = None,
    sets: Iterable[str] = (),
    values: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    below: Mapping[str, Mapping[str, Any]] | None = None,
    below_from: str = "",
) -> Config:
    """The config from defaults, then `below`, `file`, `values` (options and Python callers), `sets`.

    Args:
        file: a TOML file with any of the sections.
        sets: `section.key=value` texts; the value is TOML, or else a bare string.
        values: nested mapping, the same sections and keys.
        below: the same, under all that a user says.
        below_from: where that comes from, for messages.

    Raises:
        ConfigError: every unknown key and wrong value at once, each with its origin and the nearest known key.
    """
    merged, origins, faults = _merged(file, sets, values, below, below_from)
    config = Config()
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        faults += [_fault(one, origins) for one in _one_each(error.errors())]
    if faults:
        raise ConfigError("\n".join(faults))
    return config


def tables(
    file: Path | None, sets: Iterable[str], values: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, dict[str, Any]]:
    """What `load` would take from the same arguments, without the defaults.

    Raises:
        ConfigError: unknown keys, all at once.
    """
    merged, _, faults = _merged(file, sets, values)
    if faults:
        raise ConfigError("\n".join(faults))
    return merged


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """`section.key` -> (old, new) where two configs differ."""
    return {
        key: (a, b)
        for key in keys()
        if (a := getattr(getattr(old, key.split(".")[0]), key.split(".")[1]))
        != (b := getattr(getattr(new, key.split(".")[0]), key.split(".")[1]))
    }


def _merged(
    file: Path | None,
    sets: Iterable[str],
    values: Mapping[str, Mapping[str, Any]] | None,
    below: Mapping[str, Mapping[str, Any]] | None = None,
    below_from: str = "",
) -> tuple[dict[str, dict[str, Any]], dict[str, str], list[str]]:
    """Values by section and key, where each came from, and every unknown key."""
    merged: dict[str, dict[str, Any]] = {}
    origins: dict[str, str] = {}
    faults: list[str] = []
    _merge(merged, origins, faults, below or {}, below_from)
    if file is not None:
        # a run.toml has the domain of its run beside its config: a record, no setting
        read = {section: table for section, table in _read(file).items() if section != "domain"}
        _merge(merged, origins, faults, read, str(file))
    _merge(merged, origins, faults, values or {}, "options")
    for text in sets:
        _merge(merged, origins, faults, _one_set(text, faults), f"--set {_without_address(text)}")
    return merged, origins, faults


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"config file {file}: there is no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"config file {file}: {error}") from None


def _one_set(text: str, faults: list[str]) -> dict[str, dict[str, Any]]:
    key, equals, value = text.partition("=")
    section, dot, name = key.strip().partition(".")
    if not equals or not dot:
        faults.append(f"--set {_without_address(text)}: write section.key=value, for example train.batch=128")
        return {}
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    return {section: {name: parsed}}


def _without_address(text: str) -> str:
    """A `--set` as a message may repeat it: of what is `notify.urls`, perhaps mistyped, no more than the key."""
    key, equals, value = text.partition("=")
    if not equals:
        return notices.masked(text) if "://" in text else text
    name = key.strip()
    plain = name in keys() and name != "notify.urls"
    hidden = name.startswith("notify.") if not plain else name == "notify.when" and "://" in value
    return f"{key}={notices.HIDDEN}" if hidden or ("://" in value and not plain) else text


def _merge(
    merged: dict[str, dict[str, Any]],
    origins: dict[str, str],
    faults: list[str],
    tables: Mapping[str, Any],
    origin: str,
) -> None:
    known = keys()
    sections = list(Config.model_fields)
    for section, table in tables.items():
        if section not in sections or not isinstance(table, Mapping):
            faults.append(f"{section}: no such section (from {origin}); known: {', '.join(sections)}")
            continue
        for key, value in table.items():
            name = f"{section}.{key}"
            if name not in known:
                faults.append(f"{name}: unknown key (from {origin}); {_nearest(name, list(known))}")
                continue
            merged.setdefault(section, {})[key] = value
            origins[name] = origin


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    key = name.partition(".")[2]
    near += [one for one in known if one.partition(".")[2] == key and one not in near]
    return f"nearest: {', '.join(near)}" if near else f"the section has: {', '.join(known)}"


def _one_each(errors: list[Any]) -> list[Any]:
    """One fault a key: a union reports each of its members, of which the last is the informative one."""
    return list({".".join(map(str, one["loc"][:2])): one for one in errors}.values())


def _fault(error: Any, origins: Mapping[str, str]) -> str:
    name = ".".join(map(str, error["loc"][:2]))
    section, _, key = name.partition(".")
    field = type(Config.model_fields[section].default).model_fields.get(key)
    about = f"; it is: {field.description}, default {_toml_value(field.default)}" if field else ""
    reason = error["msg"].removeprefix("Value error, ")
    # an address may also have been given to the wrong one of the two keys
    hidden = name == "notify.urls" or (section == "notify" and "://" in str(error["input"]))
    given = notices.HIDDEN if hidden else repr(error["input"])
    return f"{name} = {given}: {reason} (from {origins.get(name, 'default')}){about}"


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    return "{}" if value == {} else str(value)
