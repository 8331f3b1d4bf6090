"""What sharing gained or lost for each task, in numbers, in words and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from mtl_core.sharing.bootstrap import Gain
from mtl_core.sharing.groups import Affinities, affinity, opponents, suggest_groups

Word = Literal["gains", "loses", "no clear difference"]

_MOST_OPPONENTS = 3
_MOST_NAMES = 10


@dataclass(frozen=True)
class Comparison:
    """A task's score in the shared model beside that of its single-task twin.

    Attributes:
        dataset: The data set's name.
        split: The split that both were scored on.
        metric: The metric's name.
        shared: The shared model's score.
        single: The twin's score.
        gain: What sharing gained; below 0 where it lost, whichever way of the metric is better.
        low: Lower end of the interval around the gain; None where too few resamples had a value.
        high: Upper end.
        n: Labelled examples that were scored.
        skipped: Resamples on which the metric was undefined.
        word: ``"gains"`` where the whole interval lies above 0, ``"loses"`` where it lies below, else
            ``"no clear difference"``.
    """

    dataset: str
    split: str
    metric: str
    shared: float
    single: float
    gain: float
    low: float | None
    high: float | None
    n: int
    skipped: int
    word: Word

    @classmethod
    def of(cls, dataset: str, split: str, gain: Gain) -> Comparison:
        """Return how a shared model and a twin compare, of which the shared one comes first in ``gain``."""
        word: Word = "no clear difference"
        if gain.low is not None and gain.low > 0:
            word = "gains"
        elif gain.high is not None and gain.high < 0:
            word = "loses"
        return cls(
            dataset=dataset,
            split=split,
            metric=gain.metric,
            shared=gain.first,
            single=gain.second,
            gain=gain.gain,
            low=gain.low,
            high=gain.high,
            n=gain.n,
            skipped=gain.skipped,
            word=word,
        )


@dataclass(frozen=True)
class TaskVerdict:
    """What sharing gained or lost for one task.

    Attributes:
        task: The task's name.
        word: That of the task's first metric; of several data sets, ``"loses"`` where it loses on any, else
            ``"gains"`` where it gains on any.
        hurt_by: Where the task loses, the tasks whose gradients oppose its own, the fiercest first, at most 3.
        comparisons: A row for each data set and metric.
    """

    task: str
    word: Word
    hurt_by: list[str]
    comparisons: list[Comparison]


@dataclass(frozen=True)
class Affinity:
    """How far two tasks pull the modules that they share in one direction.

    Attributes:
        tasks: The two names, in alphabetical order.
        value: The mean cosine of their gradients over the training, in [-1, 1]; below 0 they oppose one another.
    """

    tasks: tuple[str, str]
    value: float


@dataclass(frozen=True)
class SharingVerdict:
    """What sharing gained or lost for each task of a model, which tasks hurt one another, and what to do about it.

    Attributes:
        tasks: The tasks that were judged.
        unjudged: Why the others were not, by task.
        affinities: Each pair of tasks whose gradients were compared.
        groups: A partition of all tasks into models that is suggested; one group where nothing speaks for a split.
        resamples: Bootstrap resamples behind each interval.
        confidence: Share of the resamples that an interval holds.
    """

    tasks: list[TaskVerdict]
    unjudged: dict[str, str]
    affinities: list[Affinity]
    groups: list[list[str]]
    resamples: int
    confidence: float

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        comparisons: Mapping[str, list[Comparison]],
        unjudged: Mapping[str, str],
        affinities: Affinities,
        resamples: int,
        confidence: float,
    ) -> SharingVerdict:
        """Return the verdict that comparisons and affinities come to.

        Args:
            names: All tasks.
            comparisons: Of each task that was judged, at least one, those of its first metric first.
            unjudged: Why the other tasks were not.
            affinities: The mean cosines of pairs of tasks.
            resamples: Bootstrap resamples behind each interval.
            confidence: Share of them that an interval holds.
        """
        words: dict[str, Word] = {task: _word_of(rows) for task, rows in comparisons.items()}
        losing = [task for task, word in words.items() if word == "loses"]
        hurt_by = {task: opponents(task, affinities)[:_MOST_OPPONENTS] for task in losing}
        return cls(
            tasks=[
                TaskVerdict(task, words[task], hurt_by.get(task, []), rows)
                for task, rows in comparisons.items()
            ],
            unjudged=dict(unjudged),
            affinities=[Affinity(pair, value) for pair, value in sorted(affinities.items())],
            groups=suggest_groups(names, affinities, losing),
            resamples=resamples,
            confidence=confidence,
        )

    @property
    def summary(self) -> str:
        """The verdict in a few sentences."""
        found = {word: [t.task for t in self.tasks if t.word == word] for word in ("gains", "loses")}
        unclear = [task.task for task in self.tasks if task.word == "no clear difference"]
        sentences: list[str] = []
        if found["gains"]:
            sentences.append(f"Sharing gains for {_listed(found['gains'])}.")
        if found["loses"]:
            sentences.append(f"Sharing loses for {_listed(found['loses'])}.")
        if unclear:
            sentences.append(f"There is no clear difference for {_listed(unclear)}.")
        sentences += [self._cause(task) for task in self.tasks if task.word == "loses"][:_MOST_NAMES]
        if self.unjudged:
            sentences.append(f"Not judged: {_listed(list(self.unjudged))}.")
        sentences.append(self._advice(bool(found["loses"])))
        return " ".join(sentences)

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as JSON values, the summary among them."""
        return {"summary": self.summary, **_JSON.dump_python(self, mode="json")}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SharingVerdict:
        """Return the verdict that :meth:`to_json` was asked of.

        Raises:
            pydantic.ValidationError: If the values are not those of a verdict.
        """
        return _JSON.validate_python(data)

    def _cause(self, task: TaskVerdict) -> str:
        known = {pair.tasks: pair.value for pair in self.affinities}
        if task.hurt_by:
            fiercest = affinity(known, task.task, task.hurt_by[0])
            return (
                f"The gradients of {_listed(task.hurt_by)} oppose those of '{task.task}', by a mean cosine of"
                f" {fiercest:.2f} at worst."
            )
        return f"No gradients oppose those of '{task.task}': it may lack capacity or weight rather than agreement."

    def _advice(self, some_lose: bool) -> str:
        if len(self.groups) > 1:
            shown = "; ".join(_listed(group) for group in self.groups[:_MOST_NAMES])
            if some_lose:
                return f"Try a model for each of these groups: {shown}."
            return f"No task loses, so nothing has to be split; gradients oppose one another between groups: {shown}."
        if some_lose:
            return "Nothing suggests a split along other tasks: more capacity or another balancing may help."
        return "There is no reason to split the tasks."


_JSON = TypeAdapter(SharingVerdict)


def _word_of(rows: Sequence[Comparison]) -> Word:
    words: list[Word] = [row.word for row in rows if row.metric == rows[0].metric]
    order: tuple[Word, ...] = ("loses", "gains", "no clear difference")
    return next(word for word in order if word in words)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_MOST_NAMES])
    more = len(names) - _MOST_NAMES
    return f"{shown} and {more} more" if more > 0 else shown
