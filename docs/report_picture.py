"""Makes docs/report.jpg in headless Chromium: python docs/report_picture.py [FOLDER], one that `cryoflow demo` made."""

from __future__ import annotations

import subprocess  # noqa: TID251  # the demo is started as users start it
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from chromium import browser


def main() -> None:
    """Show the top of the demo's report, and take the picture."""
    demo = Path(sys.argv[1] if len(sys.argv) > 1 else "demo").absolute()
    if not (demo / "report.html").is_file():
        subprocess.run([sys.executable, "-m", "cryoflow", "demo", "--output", str(demo)], check=True)
    with tempfile.TemporaryDirectory() as name, browser(Path(name), width=1180, height=1330) as page:
        page.open((demo / "report.html").as_uri(), shows="Clean picks")
        page.js(f"document.body.innerHTML = document.body.innerHTML.replaceAll({str(demo)!r}, 'demo')")
        page.picture(Path(__file__).with_name("report.jpg"), quality=80)


if __name__ == "__main__":
    main()
