"""From the findings of an image to the one label that it is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from xal_ray.config import Source
from xal_ray.errors import SourceError
from xal_ray.nearest_name import nearest_name


@dataclass
class Question:
    """Which finding of several an image shows.

    Attributes:
        findings: The classes, in the order of the configuration.
        absent: What the set writes where nothing was found ("No finding").
        several: `Source.several`.
        left_out: Images that got no label, by reason; `label` counts them.
    """

    findings: tuple[str, ...]
    absent: str
    several: str
    left_out: Counter[str] = field(default_factory=Counter)

    def label(self, found: Collection[str]) -> str | None:
        """Return the label of an image.

        - Exactly one of the asked findings: that one.
        - Several: none, reason `several_findings`; or the first in the order of `findings`.
        - None of them, but others: none, `other_findings`.
        - Nothing but `absent`: that, if it was asked for; else none, `no_finding`.
        - Not even `absent` (annotators who do not agree): none, `undecided`.

        Args:
            found: All findings of the image, asked for or not.
        """
        shown = set(found) - {self.absent}
        named = [finding for finding in self.findings if finding in shown]
        if len(named) == 1 or (named and self.several == "first"):
            return named[0]
        if not shown and self.absent in found and self.absent in self.findings:
            return self.absent
        self.left_out[self._reason(named, shown, found)] += 1
        return None

    def _reason(self, named: Collection[str], shown: Collection[str], found: Collection[str]) -> str:
        if named:
            return "several_findings"
        if shown:
            return "other_findings"
        return "no_finding" if self.absent in found else "undecided"


def ask(source: Source, usual: Sequence[str], known: Sequence[str], absent: str) -> Question:
    """Return what a source is asked for.

    Args:
        source: `findings` may differ from the set's own writing in capitals.
        usual: What is asked where `findings` is not given.
        known: All findings of the set.
        absent: What the set writes where nothing was found.

    Raises:
        SourceError: A finding is not known, or stands twice.
    """
    by_lower_case = {name.lower(): name for name in (*known, absent)}
    findings = []
    for asked in usual if source.findings is None else source.findings:
        finding = by_lower_case.get(asked.strip().lower())
        if finding is None:
            near = nearest_name(asked, by_lower_case.values())
            raise SourceError(
                "a finding is not known to this source",
                expected="some of " + ", ".join(by_lower_case.values()),
                found=f"'{asked}'",
                where="pool.source.findings",
                next_step=f"did you mean '{near}'?" if near else None,
            )
        findings.append(finding)
    if not findings or len(set(findings)) < len(findings):
        raise SourceError(
            "the findings are none, or one stands twice",
            found=", ".join(findings) or "an empty list",
            where="pool.source.findings",
        )
    return Question(tuple(findings), absent, source.several)
