"""Names the files of a sweep's folder."""

RECORD_NAME = "sweep.json"
TABLE_NAME = "sweep.parquet"
VERDICT_NAME = "verdict.json"
BEST_NAME = "best.yaml"
PAGE_NAME = "sweep.html"
