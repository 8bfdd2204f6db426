"""`penstock up` hands its file of settings on to what it starts."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.folder import folder_system


@pytest.mark.timeout(240)
def test_what_up_starts_reads_its_file_and_a_misspelt_variable_is_told_once(
    tmp_path: Path,
) -> None:
    config = tmp_path / "penstock.toml"
    config.write_text('[up]\nnamespace = "filed"\n[gateway]\nmax_body_bytes = 1000\n')
    system = folder_system(tmp_path, "--config", str(config))
    system.environment["PENSTOCK_QUEUE_LIMT"] = "1"
    try:
        system.start()
        assert system.system_file()["namespace"] == "filed"
        request = urllib.request.Request(f"{system.url}/v2/models/none/infer", b"[" * 2000)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        assert refused.value.code == 413
        assert system.output.count("PENSTOCK_QUEUE_LIMT is no variable") == 1
        assert "did you mean PENSTOCK_QUEUE_LIMIT?" in system.output
        logs = [path.read_text() for path in (system.data_dir / "logs").iterdir()]
        assert [text for text in logs if "PENSTOCK_QUEUE_LIMT" in text] == []
    finally:
        system.stop()
