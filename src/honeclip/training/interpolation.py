"""WiSE-FT at the end of a run: the models between its start and RUN/model, and the one that forgets least for what it keeps.

`model.interpolate` has the method and its source. Embeddings are computed anew for each alpha; where a body did not learn its
features come from the cache, and the sweep costs seconds. Alpha is chosen on the val splits of both data sets; test is scored
for every alpha and decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from honeclip.embedding import features
from honeclip.embedding.features import Progress
from honeclip.evaluation import gain
from honeclip.evaluation.forgetting import Between, Sides, choose
from honeclip.evaluation.report import Report
from honeclip.model.clip import Clip
from honeclip.model.interpolate import between
from honeclip.training.asked import Asked
from honeclip.training.forgetting import told
from honeclip.training.guard import Guard

ALPHAS = tuple(tenth / 10 for tenth in range(11))


@dataclass(frozen=True)
class Swept:
    """The sweep, the chosen model, and what that got on the test split of the run's data and of the guard."""

    between: Between
    clip: Clip
    field: Report
    elsewhere: Report


def sweep(
    start: Clip,
    end: Clip,
    val: Asked,
    test: Asked,
    guard: Guard,
    frozen: frozenset[str],
    progress: Progress | None = None,
) -> Swept:
    """Scores the models between two and chooses one; `evaluation.forgetting.RULE` says how.

    Args:
        start: as the run began, heads folded and adapters merged.
        end: as it is handed over, at the same image size.
        val: of the run's data.
        test: of the run's data.
        guard: the other data set.
        frozen: towers whose bodies never learned.
        progress: called with (alphas done, alphas).
    """
    asked = (val, test, guard.val, guard.test)
    sides, reports = [], []
    for number, alpha in enumerate(ALPHAS):
        clip = between(start, end, alpha)
        known = features.caches(clip, image="image" in frozen, text="text" in frozen)
        got = [one.report(clip, known) for one in asked]
        own, held, other, other_held = (
            gain.scored(one.metrics, one.answers, of.domain, one.seed) for one, of in zip(got, asked, strict=True)
        )
        metrics = {name: told(got[at].metrics, guard, got[at + 2].metrics) for at, name in enumerate(("val", "test"))}
        sides.append(Sides(own, held, other, other_held, metrics))
        reports.append((got[1], got[3]))
        if progress:
            progress(number + 1, len(ALPHAS))
    chosen = choose(sides)
    return Swept(Between(ALPHAS, tuple(sides), chosen), between(start, end, ALPHAS[chosen]), *reports[chosen])
