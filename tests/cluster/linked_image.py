"""Stand in for `containers/build --apptainer --output FOLDER cpu gpu`: put the image there that other tests use.

That one was built by the same script, from a base that needs no registry; the GPU image would take too long.
"""

import os
import shutil
import sys
from pathlib import Path

from cpu_image import cpu_image

folder = Path(sys.argv[sys.argv.index("--output") + 1])
folder.mkdir(parents=True, exist_ok=True)
image = cpu_image()
try:
    os.link(image, folder / "cryoflow-cpu.sif")
except OSError:  # on another file system
    shutil.copy2(image, folder / "cryoflow-cpu.sif")
