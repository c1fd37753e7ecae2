"""The best setting that a coefficient search found for a vector: the default of `trait-client steer --trait`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BestSetting:
    """The best setting of the latest search."""

    layer: int
    coefficient: float
    delta: float
    ci_low: float | None
    ci_high: float | None
    coherence: float
    verdict: str

    def __str__(self) -> str:
        interval = "" if self.ci_low is None else f" [{self.ci_low:+.0f}, {self.ci_high:+.0f}]"
        return (
            f"layer {self.layer}, coefficient {self.coefficient:g}: "
            f"delta {self.delta:+.0f}{interval}, coherence {self.coherence:.0f}, {self.verdict}"
        )


def best_setting(db: Path, sha256: str) -> BestSetting | None:
    """Look up the best setting of a vector file; None if there is no database or no search of that file.

    Raises:
        ResultsError: The database cannot be read.
    """
    if not db.exists():
        return None
    from trait_client.results import ResultStore  # noqa: PLC0415 - DuckDB takes a while to import

    with ResultStore(db).reader() as reader:
        if not reader.query("SELECT 1 FROM duckdb_views() WHERE view_name = 'best_settings'").rows:
            return None  # an older database
        rows = reader.records(
            "SELECT layer, coefficient, delta, ci_low, ci_high, coherence, verdict FROM best_settings "
            "WHERE trait_sha256 = ? AND unit = 'dose'",
            [sha256],
        )
    return BestSetting(**rows[0]) if rows else None
