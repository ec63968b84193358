"""A study: trials of a config on one bench, pruned by their scores on val, kept in a database, and its best as a config.

The first trial is the config as it was given, so that the best is never worse on val than what would have been run anyway.
At the end the two meet on the test split, which no trial has seen.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import tomli_w
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from honeclip import config as configs
from honeclip.checkpoint.lock import locked
from honeclip.config import Config
from honeclip.errors import BadInput, ConfigError, MemoryExhausted, NonFiniteError, RunError
from honeclip.evaluation.answers import paired_difference
from honeclip.evaluation.report import Report
from honeclip.model.heads import takes_fresh_heads
from honeclip.monitoring.events import EventLog
from honeclip.monitoring.terminal import Progress
from honeclip.training import folder as folders
from honeclip.training import settings
from honeclip.training.attempt import Bench, attempt
from honeclip.training.frozen import Known
from honeclip.training.notified import told
from honeclip.training.prepared import prepare
from honeclip.training.signals import stopping
from honeclip.tuning.space import Overrides, Space, suggest

NAME = "honeclip"
"""Of the one study in a storage."""

GIVEN = "as given"
"""Marks the trial that changes nothing."""

FORGOT = "forgot"
"""Marks a trial of which no evaluation kept within `evaluate.max_forgetting`: `fit` would hand over the start."""

CONFIG = "config"
"""Of the study's attributes: the config as given, whole."""

STARTUP_TRIALS = 5
"""Trials that are drawn at random, and that none is pruned against."""

OPENINGS = 4
"""How often a storage is asked before it counts as one that does not answer."""

HEARTBEAT_S, GRACE_S = 20, 60
"""How often a process tells the storage that its trial is alive, and after how long without that the trial has failed."""

TRIALS = "trials.jsonl"
"""Of a study's folder: an event a trial and one at the end, as events.jsonl has them of a run; by it people are told."""

DONE = (TrialState.COMPLETE, TrialState.PRUNED)

PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=2),
    "hyperband": lambda: optuna.pruners.HyperbandPruner(min_resource=1, max_resource=10),
    "none": optuna.pruners.NopPruner,
}


@dataclass(frozen=True)
class Result:
    """What a study found.

    Attributes:
        out: its folder.
        study: Optuna's.
        best: the trial with the best score on val.
        overrides: what it changes of the config as given.
        given: what the config as given gets on test with its best weights; None without a test split.
        tuned: the same of the best config.
    """

    out: Path
    study: optuna.Study
    best: optuna.trial.FrozenTrial
    overrides: Overrides
    given: Report | None
    tuned: Report | None

    @property
    def config_file(self) -> Path:
        """What `fit --config` takes."""
        return self.out / "best.toml"

    @property
    def difference(self) -> dict[str, Any] | None:
        """The best minus the config as given, on the same test queries, with intervals."""
        if self.given is None or self.tuned is None:
            return None
        return paired_difference(self.given.answers, self.tuned.answers)

    def to_json(self) -> dict[str, Any]:
        """What `tune --json` prints."""
        states = [trial.state for trial in self.study.trials]
        return {
            "out": str(self.out),
            "best_config": str(self.config_file),
            "trials": len(states),
            "complete": states.count(TrialState.COMPLETE),
            "pruned": states.count(TrialState.PRUNED),
            "failed": states.count(TrialState.FAIL),
            "best": {"number": self.best.number, "score": self.best.value, "changes": self.overrides},
            "given": self.given.metrics if self.given else {},
            "tuned": self.tuned.metrics if self.tuned else {},
            "difference": self.difference,
        }


def tune(
    data: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] = "runs/tune",
    model: str | os.PathLike[str] | None = None,
    domain: str | None = None,
    *,
    config_file: Path | None = None,
    sets: Sequence[str] = (),
    trials: int = 20,
    storage: str | None = None,
    pruner: str = "median",
    device: str = "auto",
    report: Callable[[str], None] | None = None,
) -> Result:
    """Tries configs until the study has `trials` of them, those of earlier calls and of other processes included.

    Args:
        data, model, domain, config_file, sets, device: as for `fit`; what they set is not varied.
        out: folder of the study: study.db, best.toml, and the page.
        trials: of the whole study.
        storage: a database URL that several processes may share; None is OUT/study.db.
        pruner: "median", "hyperband" or "none".
        report: told what is going on; None prints it on standard error, above the progress.

    Raises:
        BadInput: something given is wrong, a storage that does not answer, or OUT holds the study of another config.
        Interrupted: SIGINT or SIGTERM; what was tried is kept.
    """
    if trials < 1:
        raise ConfigError(f"--trials {trials}: a study has at least one")
    if pruner not in PRUNERS:
        raise ConfigError(f"--pruner {pruner}: it is one of {', '.join(PRUNERS)}")
    values = folders.options(None, data, model, domain)
    config = folders.absolute(settings.load(config_file, sets, values))
    if not config.data.path:
        raise RunError("there is nothing to tune on: give --data (or data.path in the config)")
    given = settings.tables(config_file, sets, values)
    fixed = frozenset(f"{section}.{key}" for section, table in given.items() for key in table)
    # what best.toml may say of addresses
    given = {**given, "notify": config.notify.model_dump(include=set(given["notify"]))} if "notify" in given else given
    # as paths that hold wherever best.toml is used from
    given = _merged(given, {"data": {"path": config.data.path, "domain": config.data.domain}})
    given = _merged(given, {"model": {"source": config.model.source}})
    if config.resolution.stages == "auto":
        raise ConfigError(
            "resolution.stages=auto chooses anew by what it measures, and trials are compared at the same sizes: take the "
            "stages that `honeclip plan --model M --data D` prints"
        )
    folder = Path(out)
    with Progress() as progress, stopping():
        say = report or progress.say
        prepared = prepare(config, device, say, progress)
        if not len(prepared.asked("val").pairs):
            raise ConfigError(f"{config.data.path} has no val split, by whose scores settings are compared")
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / TRIALS
        with locked(folder), told(file, folder.absolute().name, config, say), closing(EventLog(file)) as log:
            study = _study(folder, storage, PRUNERS[pruner](), config.train.seed)
            _same_config(study, config, storage or str(folder))
            bench = Bench(prepared, Known(progress))
            space = Space(fixed, bool(prepared.labels), takes_fresh_heads(prepared.clip))
            search = _Search(folder, study, bench, space, given, log)
            search.run(trials, say, alone=storage is None)
            found = search.result(say)
            log.append("end", status="done", words=_verdict(found))
            return found


@dataclass(frozen=True)
class _Search:
    folder: Path
    study: optuna.Study
    bench: Bench
    space: Space
    given: dict[str, dict[str, Any]]
    log: EventLog

    def run(self, trials: int, say: Callable[[str], None], alone: bool) -> None:
        """Trials until the study has so many; one that failed does not count, and too many of them end it."""
        if alone:
            for stale in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                self.study.tell(stale.number, state=TrialState.FAIL)  # nobody else may be at it: the folder is locked
        if not self.study.trials:
            self.study.enqueue_trial({}, user_attrs={GIVEN: True})
        failed = 0
        while self._count(*DONE, TrialState.RUNNING) < trials:
            number, before = len(self.study.trials), self._best()
            self.study.optimize(self._score, n_trials=1, catch=(NonFiniteError, MemoryExhausted))
            last = self.study.trials[number] if number < len(self.study.trials) else self.study.trials[-1]
            failed += last.state == TrialState.FAIL
            say(_line(last, self._count(*DONE), trials))
            self._write_best()
            best = self._best()
            is_best = best is not None and best.number == last.number != (before.number if before else None)
            words = f"trial {last.number} ({changes_in_words(last)})"
            self.log.append("trial", step=self._count(*DONE), score=last.value, words=words, best=is_best)
            if failed > max(3, trials // 2):
                raise RunError(
                    f"{failed} trials failed, the last one with: {last.system_attrs.get('fail_reason', '?')}"
                )

    def result(self, say: Callable[[str], None]) -> Result:
        """The best trial, and it and the config as given side by side on test."""
        best = self._best()
        if best is None:
            forgot = sum(bool(trial.user_attrs.get(FORGOT)) for trial in self.study.trials)
            why = f" ({forgot} forgot more than evaluate.max_forgetting allows)" if forgot else ""
            raise RunError(f"no trial of the study in {self.folder} has ended{why}; go on with more --trials")
        overrides: Overrides = best.user_attrs.get("overrides", {})
        asked = self.bench.prepared.asked("test")
        reports: list[Report | None] = [None, None]
        if len(asked.pairs):
            say("the best settings and those given, on the test split")
            for place, changes in enumerate(({}, overrides)):
                tried = attempt(self.bench, self._config(changes))
                for _ in tried.scores():
                    pass
                reports[place] = tried.report(asked)
        return Result(self.folder, self.study, best, overrides, *reports)

    def _score(self, trial: optuna.Trial) -> float:
        overrides = {} if trial.user_attrs.get(GIVEN) else suggest(trial, self.space)
        trial.set_user_attr("overrides", overrides)
        tried = attempt(self.bench, self._config(overrides))
        for number, scored in enumerate(tried.scores()):
            if scored.best is None:
                continue
            trial.report(scored.best, number)
            if trial.should_prune():
                raise optuna.TrialPruned
        if tried.best is None:
            # no penalty on the score: that would need a rate of exchange between two data sets, which nobody has given
            trial.set_user_attr(FORGOT, True)
            raise optuna.TrialPruned
        return tried.best

    def _config(self, overrides: Overrides) -> Config:
        return configs.load(values=_merged(self.given, overrides))

    def _best(self) -> optuna.trial.FrozenTrial | None:
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return max(complete, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)

    def _write_best(self) -> None:
        best = self._best()
        if best is None:
            return
        tables = _merged(self.given, best.user_attrs.get("overrides", {}))
        partial = self.folder / "best.toml.partial"
        head = f"# trial {best.number}, {best.value:.4f} on val; fit --config takes this file\n"
        partial.write_text(head + tomli_w.dumps(tables), encoding="utf-8")
        partial.replace(self.folder / "best.toml")

    def _count(self, *states: TrialState) -> int:
        return len(self.study.get_trials(deepcopy=False, states=states))


def _study(folder: Path, url: str | None, pruner: optuna.pruners.BasePruner, seed: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    where = url or f"sqlite:///{(folder / 'study.db').absolute()}"
    for again in range(OPENINGS):
        try:
            study = _opened(where, pruner)
            break
        except Exception as error:
            # two processes that come to an empty database at once both make its tables, and one of them fails
            if again == OPENINGS - 1 or not isinstance(error, SQLAlchemyError | optuna.exceptions.StorageInternalError):
                raise _no_answer(where, error) from None
            time.sleep(2.0**again / 4)
    # a process that goes on, or one beside others, must not draw again what the first one has drawn
    tried = len(study.get_trials(deepcopy=False))
    own = seed + tried + (os.getpid() if url else 0)
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP_TRIALS, seed=own)
    return study


def _opened(where: str, pruner: optuna.pruners.BasePruner) -> optuna.Study:
    with warnings.catch_warnings():
        # heartbeats have been "experimental" since 2021, and nothing else tells a killed process from a slow one
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.RDBStorage(where, heartbeat_interval=HEARTBEAT_S, grace_period=GRACE_S)
    return optuna.create_study(
        study_name=NAME, storage=storage, pruner=pruner, direction="maximize", load_if_exists=True
    )


def _no_answer(url: str, error: Exception) -> BadInput:
    """What a database does instead of answering, as one sentence; a password in the URL is not repeated."""
    shown = url.rsplit("@", 1)[-1]
    said = str(error).splitlines()[0][:200].replace(url, shown)
    return BadInput(
        f"--storage {shown}: the database does not answer ({type(error).__name__}: {said}). "
        "Give a URL such as sqlite:///study.db or postgresql://user@host/name with its driver installed"
    )


def _same_config(study: optuna.Study, config: Config, where: str) -> None:
    """Writes down in the storage what the study is of; refuses one of something else."""
    kept = study.user_attrs.get(CONFIG)
    if kept is None:
        study.set_user_attr(CONFIG, config.model_dump(mode="json", exclude_none=True))
        return
    found = configs.differences(configs.load(values=kept), config)
    differing = {key: pair for key, pair in found.items() if not key.startswith("notify.")}  # addresses are kept masked
    if differing:
        named = ", ".join(f"{key} ({old!r} there, {new!r} now)" for key, (old, new) in differing.items())
        raise RunError(f"{where} holds a study of another config: {named}; name another folder or storage")


def _merged(given: Mapping[str, Mapping[str, Any]], overrides: Overrides) -> dict[str, dict[str, Any]]:
    sections = [*given, *(one for one in overrides if one not in given)]
    return {section: {**given.get(section, {}), **overrides.get(section, {})} for section in sections}


def changes_in_words(trial: optuna.trial.FrozenTrial) -> str:
    """What a trial changes of the config as given."""
    changes = {key: f"{value:.3g}" if isinstance(value, float) else value for key, value in trial.params.items()}
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in changes.items()) or "as given"


def _verdict(found: Result) -> str:
    """What a study came to, in a sentence."""
    best = found.best
    return f"the best is trial {best.number} ({changes_in_words(best)}), {best.value:.4f} on val; best.toml holds its settings"


def _line(trial: optuna.trial.FrozenTrial, done: int, trials: int) -> str:
    score = f"{trial.value:.4f}" if trial.state == TrialState.COMPLETE else trial.state.name.lower()
    forgot = ", forgot too much" if trial.user_attrs.get(FORGOT) else ""
    return f"trial {trial.number} ({done} of {trials}): {score} on val{forgot}; {changes_in_words(trial)}"


logging.getLogger("alembic").setLevel(logging.WARNING)
