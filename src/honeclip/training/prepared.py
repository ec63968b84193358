"""What a config names, found and loaded: device and precision, data, domain, model and sizes. Nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from honeclip.config import Config
from honeclip.data import pairs
from honeclip.data.pairs import Pairs
from honeclip.device import detect, precision, resident
from honeclip.device.device import Device
from honeclip.device.precision import Precision
from honeclip.domains import domain as domains
from honeclip.domains.domain import Domain
from honeclip.errors import ConfigError, DataError
from honeclip.evaluation.evaluate import all_labels, data_name
from honeclip.model import resize, selfcheck
from honeclip.model.clip import Clip
from honeclip.model.load import load
from honeclip.model.resize import Origin
from honeclip.monitoring.terminal import Progress
from honeclip.preprocess import language
from honeclip.preprocess.rules import text_how
from honeclip.sizes import SizeStage
from honeclip.training import guard as guards
from honeclip.training import objective, planning, resolution, stages
from honeclip.training.asked import Asked
from honeclip.training.guard import Guard
from honeclip.training.ranks import Ranks

Say = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """What a config names, found and loaded; nothing was written yet.

    Attributes:
        config: the effective one.
        device: where the run computes.
        precision: of the towers in training.
        everything: all usable rows of the data.
        train: those to learn from.
        domain: of templates, augmentation and the selection score.
        labels: the distinct labels of the data.
        clip: the model as it begins, at the run's last size and its context length.
        sizes: (share of the run, effective batch from there on): as asked for, each at most the rows.
        imports_bytes: what the process held before anything was loaded.
        begins_tuned: whether the model was fine-tuned by honeclip before.
        origin: position tables of the model as it was loaded.
        resolutions: sizes of the images over the run, each one that the tower takes; none for a run of one size.
        before_seconds: what a length in minutes has to leave room for beside the steps; 0 where it counts the steps alone.
        since: when a length in minutes began to count, in seconds of `time.perf_counter`; None where it counts the steps
            alone.
        guard: what must not be forgotten; None where nothing is named.
        ranks: this process among those of the run.
    """

    config: Config
    device: Device
    precision: Precision
    everything: Pairs
    train: Pairs
    domain: Domain
    labels: tuple[str, ...]
    clip: Clip
    sizes: tuple[tuple[float, int], ...]
    imports_bytes: int
    begins_tuned: bool
    origin: Origin
    resolutions: tuple[SizeStage, ...] = ()
    before_seconds: float = 0.0
    since: float | None = None
    guard: Guard | None = None
    ranks: Ranks = field(default_factory=Ranks)

    def asked(self, split: str) -> Asked:
        """What the model is measured on, for val and test."""
        name = data_name(self.config.data.path)
        return Asked(self.everything.split(split), split, self.domain, self.labels, name, self.config.train.seed)

    @property
    def begins_unaligned(self) -> bool:
        """Whether the two towers have never met, so that scores before the run are chance."""
        return self.clip.base.starts_unaligned and not self.begins_tuned

    @property
    def steps_per_epoch(self) -> float:
        """Batches that the train split makes; may be a fraction."""
        return len(self.train) / self.mean_batch

    @property
    def mean_batch(self) -> float:
        """The effective batch, averaged over the run where it grows."""
        ends = [share for share, _ in self.sizes[1:]] + [1.0]
        return sum((end - share) * size for (share, size), end in zip(self.sizes, ends, strict=True))


def prepare(config: Config, device: str, say: Say, progress: Progress) -> Prepared:
    """Loads everything that the config names; whatever is wrong with it comes out here.

    Raises:
        BadInput: data, domain, model, device or precision cannot be used.
    """
    if config.train.accumulation == "plain" and config.memory.micro_batch == "auto":
        raise ConfigError(
            "train.accumulation=plain learns from the negatives of each micro-batch, so that memory would decide what is "
            "learned: set memory.micro_batch, or leave train.accumulation=exact"
        )
    objective.check(config.loss)
    guards.check(config)
    imports_bytes = resident.now_bytes()
    where = detect.choose(device)
    how = _right_precision(where, config.train.precision, say)
    domain = domains.load(config.data.domain)
    # a model's source is looked up before an hour goes into looking at images
    clip = load(config.model.source, where)
    if config.model.context_length != "native":
        resize.set_context_length(clip, config.model.context_length)
    clip.room_bytes = planning.room_bytes(clip, where, config.memory, 0)
    origin = resize.origin(clip)
    image_frozen = "image" in stages.frozen_towers(clip, config.model.freeze)
    resolutions = resolution.take(clip, config, origin, image_frozen, say)
    how_texts = text_how(domain, domains.read_terms(domain, domains.term_folders(config.data.domain)))
    clip.preprocess = clip.preprocess.with_rules(domain.image, how_texts)
    everything = pairs.load(
        config.data.path,
        columns=config.data.columns,
        max_bad_fraction=config.data.max_bad_fraction,
        domain=domain,
        progress=progress.counter("looking at images"),
    )
    train = everything.split("train")
    if len(train) < 2:
        raise DataError(
            f"{everything.source}: the train split has {len(train)} rows, and pairs are told apart from two on"
        )
    if len(train) <= config.loss.mining:
        raise ConfigError(
            f"loss.mining = {config.loss.mining}: that many near misses a row need more rows than the {len(train)} of the "
            "train split; use a smaller number, or 0"
        )
    wanted = config.train.batch
    sizes = ((0.0, wanted),) if isinstance(wanted, int) else wanted
    found = Prepared(
        config=config,
        device=where,
        precision=how,
        everything=everything,
        train=train,
        domain=domain,
        labels=all_labels(everything),
        clip=clip,
        sizes=tuple((share, min(size, len(train))) for share, size in sizes),
        imports_bytes=imports_bytes,
        begins_tuned=clip.domain is not None,
        origin=origin,
        resolutions=resolutions,
        guard=guards.load(config, domain, progress.counter("looking at what must not be forgotten")),
    )
    _introduce(found, say)
    return found


def _right_precision(device: Device, wanted: str, say: Say) -> Precision:
    """What is wished for, or float32 where an accelerator computes something else in it than the CPU does.

    Raises:
        ConfigError: it computes something else in float32 as well.
    """
    chosen = precision.choose(device, wanted)
    if device.backend == "cpu":
        return chosen
    right, check = selfcheck.checked(device, chosen)
    if not check["passed"]:
        raise ConfigError(
            f"{device.name} does not compute what the CPU computes, not even in float32: {check}. Use --device cpu; "
            "`honeclip doctor` repeats the check"
        )
    if right.name != chosen.name:
        say(f"note: {right.reason}")
    return right


def _introduce(found: Prepared, say: Say) -> None:
    """What a person should know before the first step."""
    config, clip, everything = found.config, found.clip, found.everything
    say(
        f"device: {found.device.name}: {found.device.reason}; precision {found.precision.name}: {found.precision.reason}"
    )
    counts = ", ".join(f"{everything.splits.count(name)} {name}" for name in ("train", "val", "test"))
    say(f"data: {len(everything)} of {everything.total_rows} rows can be used ({counts})")
    for note in everything.notes:
        say(f"note: {note}")
    if note := language.warning(everything.captions, found.domain.language):
        say(f"note: {note}")
    wanted = config.train.batch
    largest = wanted if isinstance(wanted, int) else max(size for _, size in wanted)
    if largest > len(found.train):
        say(f"the batch of {largest} is lowered to the {len(found.train)} rows of the train split")
    if kept := clip.preprocess.note_of_kept(everything.captions):
        say(f"note: {kept}")
    if clip.preprocess.tokenizer is not None and (cut := clip.preprocess.note_of_cuts(everything.captions)):
        say(f"note: {cut}")
    sizes = [one.size for one in found.resolutions] or [clip.preprocess.size_px]
    if sizes != [found.origin.size_px]:
        seen = ", ".join(map(str, sizes))
        say(
            f"images are seen at {seen} px; the model came with {found.origin.size_px} px and is handed over with {sizes[-1]}"
        )
    if found.begins_unaligned:
        say(
            f"{config.model.source} begins unaligned: its two towers have never met, so scores start at chance. With a "
            "network, begin with a real CLIP instead: --model ViT-B-32:datacomp_xl_s13b_b90k"
        )
    if guard := found.guard:
        counts = f"{len(guard.val.pairs)} {guard.val.split}, {len(guard.test.pairs)} {guard.test.split}"
        say(f"not to be forgotten: {guard.name} ({counts}), by at most {guard.limit:g} of its selection score")
        for note in guard.notes:
            say(f"note: {note}")
        if found.begins_unaligned:
            say(f"note: {guards.NOTHING_TO_FORGET.format(name=guard.name)}")
