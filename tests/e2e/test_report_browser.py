"""The report in a real browser without a network: it is drawn, in light and in dark, and the console stays quiet."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from loadtest import report
from tests.fakes.sample_run import STREAM_LOAD, sample_run, stream_records

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZE = (1000, 3000)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def browse(file: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={folder / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0",
        f"--window-size={SIZE[0]},{SIZE[1]}", *options, file.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    records = stream_records()
    report.write(sample_run(records, STREAM_LOAD), records, folder)
    return folder / report.REPORT_FILE


@pytest.mark.parametrize(("scheme", "dark"), [("1", False), ("0", True)], ids=["light", "dark"])
def test_the_report_is_drawn(page: Path, tmp_path: Path, scheme: str, dark: bool) -> None:
    shot = tmp_path / "shot.png"
    browser = browse(page, tmp_path, f"--screenshot={shot}", f"--blink-settings=preferredColorScheme={scheme}")
    assert "CONSOLE" not in browser.stderr
    with Image.open(shot) as image:
        assert (image.format, image.size) == ("PNG", SIZE)
        picture = image.convert("RGB")
    colours = picture.getcolors(maxcolors=1 << 20)
    assert colours
    assert len(colours) > 100  # text is smoothed, and the charts have their colours
    count, _ = max(colours, key=lambda colour: colour[0])
    assert count < 0.97 * SIZE[0] * SIZE[1]
    assert (picture.convert("L").getpixel((5, 5)) < 80) is dark  # type: ignore[operator]


def test_the_browser_lays_out_every_chart(page: Path, tmp_path: Path) -> None:
    found = browse(page, tmp_path, "--dump-dom").stdout
    assert found.count('<svg xmlns="http://www.w3.org/2000/svg" class="chart"') == 6
    assert "✓ PASS" in found
