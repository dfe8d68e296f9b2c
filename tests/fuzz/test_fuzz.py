"""A few hundred damaged files of each kind, always the same ones: `fuzz_decoders.py` does it for hours."""

import fuzz_decoders
import pytest

REFUSALS = ("unreadable", "truncated", "unsupported_format")
pytestmark = [pytest.mark.slow, pytest.mark.fault]


@pytest.mark.parametrize("entry", fuzz_decoders.ENTRIES)
def test_damaged_files_are_refused_and_nothing_else(entry, tmp_path):
    result = fuzz_decoders.fuzz(entry, tmp_path, seed=7, inputs=300)
    assert result["inputs"] == 300
    assert result["findings"] == []
    assert result["honest files read"] == len(fuzz_decoders.seeds(entry))
    assert sum(number for key, number in result.items() if key in REFUSALS) > 50
    assert any(key.startswith("read ") for key in result)
    assert not any(key.startswith("not an ImageError") for key in result)
    assert list(tmp_path.iterdir()) == []
