"""Lists the query strategies, with a record of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from xal_ray.nearest_name import nearest_name
from xal_ray.registry.lookup import Entry, Registry

# How a strategy's code is called; `acquire/contract.py` says what each kind owes.
Kind = Literal["row_wise", "ranker", "batch"]

UNCERTAINTY = "uncertainty"  # among a strategy's columns: the one that `select.uncertainty` names
# Columns of a score table that are NaN where an image has no ROI.
MAP_COLUMNS = ("misalignment", "shuffled_misalignment")
ROI_COLUMNS = (*MAP_COLUMNS, "roi_area")
EMBEDDING = "embedding"  # not a number an image: only strategies of the kind `batch` may read it
SETTINGS = (
    "uncertainty",
    "weight",
    "normalise",
    "shortlist",
)  # keys of `select` that only some strategies read


@dataclass(frozen=True, kw_only=True)
class StrategySpec(Entry):
    """Holds what is known of a strategy without loading its code.

    Attributes:
        kind: How its code is called.
        columns: The score columns that it reads; of `UNCERTAINTY`, the one that `select.uncertainty` names.
            One of the kind `batch` reads that in any case, since its shortlist is made by it.
        settings: Which of `SETTINGS` it reads. The others have no effect on it, and no part in the identity
            of a run.
        is_weighted: Its utility is `w U + (1 - w) M` with `select.weight`: at w = 1 it is its uncertainty.
        is_control: What it gains comes from elsewhere than from looking right: a sweep compares it, and never
            recommends it.
        is_uncertainty: `select.uncertainty` may name it.
        by_top_two: With two classes it ranks as the others that are so: by the larger probability.
    """

    kind: Kind = "row_wise"
    columns: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    is_weighted: bool = False
    is_control: bool = False
    is_uncertainty: bool = False
    by_top_two: bool = False

    @property
    def summary(self) -> str:
        """Return what it does, with its formula where it weighs."""
        return self.words + (": w x uncertainty + (1 - w) x misalignment" if self.is_weighted else "")

    @property
    def needs_roi(self) -> bool:
        """Tell whether it ranks by regions of interest."""
        return not set(ROI_COLUMNS).isdisjoint(self.columns)

    @property
    def needs_map(self) -> bool:
        """Tell whether it ranks by saliency maps."""
        return not set(MAP_COLUMNS).isdisjoint(self.columns)

    @property
    def needs_embeddings(self) -> bool:
        """Tell whether it reads what the model's last layer sees of images."""
        return EMBEDDING in self.columns

    def reads(self, key: str) -> bool:
        """Tell whether a key of `SETTINGS` has an effect on it."""
        if self.kind == "batch" and key in (UNCERTAINTY, "shortlist"):
            return True
        return key in self.settings or (key == UNCERTAINTY and UNCERTAINTY in self.columns)

    def columns_with(self, uncertainty: str) -> tuple[str, ...]:
        """Return the score columns of numbers that it reads, with this value of `select.uncertainty`."""
        first = (uncertainty,) if self.kind == "batch" else ()
        names = (uncertainty if name == UNCERTAINTY else name for name in self.columns if name != EMBEDDING)
        return tuple(dict.fromkeys([*first, *names]))


def _wrong(spec: StrategySpec) -> tuple[str, str] | None:
    """Return what does not fit in a plug-in's record: expected and found."""
    if spec.kind not in get_args(Kind):
        return f"a kind out of {', '.join(get_args(Kind))}", f"'{spec.kind}'"
    of_built_in = dict.fromkeys(name for built_in in STRATEGIES for name in built_in.columns)
    for title, given, known in (
        ("columns", spec.columns, tuple(of_built_in)),
        ("settings", spec.settings, SETTINGS),
    ):
        for name in given:
            if name not in known:
                near = nearest_name(name, known)
                found = f"'{name}'" + (f" (did you mean '{near}'?)" if near else "")
                return f"{title} out of {', '.join(known)}", found
    if spec.needs_embeddings and spec.kind != "batch":
        return f"kind='batch' for the column {EMBEDDING}", f"kind='{spec.kind}'"
    return None


_HERE = "xal_ray.acquire.rankers"
STRATEGIES = Registry(
    StrategySpec,
    "strategy",
    "xal_ray.strategies",
    (
        StrategySpec(name="random", path=f"{_HERE}:random", kind="ranker", words="random picks"),
        StrategySpec(
            name="entropy",
            path=f"{_HERE}:entropy",
            words="entropy, largest first",
            columns=("entropy",),
            is_uncertainty=True,
            by_top_two=True,
        ),
        StrategySpec(
            name="margin",
            path=f"{_HERE}:margin",
            words="margin, largest first",
            columns=("margin",),
            is_uncertainty=True,
            by_top_two=True,
        ),
        StrategySpec(
            name="least_confidence",
            path=f"{_HERE}:least_confidence",
            words="least_confidence, largest first",
            columns=("least_confidence",),
            is_uncertainty=True,
            by_top_two=True,
        ),
        StrategySpec(
            name="bald",
            path=f"{_HERE}:bald",
            words="bald, largest first",
            columns=("bald",),
            is_uncertainty=True,
        ),
        StrategySpec(
            name="misalignment",
            path=f"{_HERE}:misalignment",
            kind="ranker",
            words="misalignment of saliency and ROI alone",
            columns=(UNCERTAINTY, "misalignment"),
            settings=("normalise",),
        ),
        StrategySpec(
            name="dual",
            path=f"{_HERE}:dual",
            kind="ranker",
            words="dual",
            columns=(UNCERTAINTY, "misalignment"),
            settings=("weight", "normalise"),
            is_weighted=True,
        ),
        StrategySpec(
            name="shuffled_roi",
            path=f"{_HERE}:shuffled_roi",
            kind="ranker",
            words="a control, dual with the ROIs of other images",
            columns=(UNCERTAINTY, "shuffled_misalignment"),
            settings=("weight", "normalise"),
            is_weighted=True,
            is_control=True,
        ),
        StrategySpec(
            name="smallest_roi",
            path=f"{_HERE}:smallest_roi",
            kind="ranker",
            words="a control: the smallest ROI first",
            columns=(UNCERTAINTY, "roi_area"),
            settings=("normalise",),
            is_control=True,
        ),
        StrategySpec(
            name="kcenter",
            path="xal_ray.acquire.kcenter:kcenter",
            kind="batch",
            words="k-center: the farthest from all that is labelled or picked",
            columns=(EMBEDDING,),
        ),
    ),
    _wrong,
)
