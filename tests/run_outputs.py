"""What two runs of one configuration must have in common, byte for byte."""

KEPT = ("selection.parquet", "labels.parquet", "metrics.json", "model.safetensors", "model.json")


def outputs(path):
    """Relative path to bytes of all that results consist of, below a run's folder."""
    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.name in KEPT or file.parent.name in ("scores", "holdout", "labelled")
    ]
    return {str(file.relative_to(path)): file.read_bytes() for file in files if file.is_file()}
