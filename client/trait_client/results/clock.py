from datetime import UTC, datetime


def utc_now() -> datetime:
    """The time as the tables hold it: UTC, without a zone (DuckDB's zoned type would need pytz)."""
    return datetime.now(UTC).replace(tzinfo=None)
