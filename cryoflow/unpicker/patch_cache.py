"""Patches on disk: one compact file a micrograph, named by a hash of everything that decides its content.

A file is never changed; another preprocessing, another pixel or another pick gives another name. So later epochs and
later runs read 12 kB a pick in place of whole micrographs, and memory does not grow with the number of micrographs.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput, NotWritten
from cryoflow.preparation.patches import Patches, PatchExtractor, load_patches
from cryoflow.preparation.picked_micrograph import PickedMicrograph
from cryoflow.storage.files import write_atomically
from cryoflow.storage.fingerprints import checksum, fingerprint_of
from cryoflow.storage.folders import make_folder
from cryoflow.storage.inputs import load_npy


@dataclass(frozen=True)
class CachedMicrograph:
    """A micrograph whose boxes lie in a file, in the order of its picks."""

    micrograph: PickedMicrograph
    patches_file: Path
    content: str
    """Hash of the image file."""

    @property
    def data_set(self) -> str:
        """Return the project of the micrograph."""
        return self.micrograph.data_set

    @property
    def labels(self) -> npt.NDArray[np.int8]:
        """Return the labels of the patches."""
        return self.micrograph.labels

    def load(self) -> Patches:
        """Return all boxes, (n, edge, edge, channels) float16."""
        return load_npy(self.patches_file)


@dataclass(frozen=True)
class PreparedPatches:
    """The micrographs that could be prepared, and what was wrong with the others."""

    micrographs: tuple[CachedMicrograph, ...]
    failed: tuple[BadInput, ...]


def prepare(
    preprocessing: PatchExtractor,
    micrographs: Sequence[PickedMicrograph],
    cache_dir: Path,
    *,
    workers: int | None = None,
    on_done: Callable[[int, int], None] | None = None,
) -> PreparedPatches:
    """Make the boxes of every micrograph that has none yet.

    Parameters
    ----------
    workers
        Micrographs at a time, each held whole in memory; None takes as many as there are cores, at most 8.
    on_done
        Called with the number done and the number of all, from this thread.

    Raises
    ------
    NotWritten
        Where the cache cannot be written.
    """
    from cryoflow.system.cpus import available_cpus

    make_folder(cache_dir)

    def one(micrograph: PickedMicrograph) -> CachedMicrograph | BadInput:
        try:
            return _prepare_one(preprocessing, micrograph, cache_dir)
        except NotWritten:
            raise  # a full disk is no fault of the micrograph, and the next one would meet it, too
        except BadInput as error:
            return error
        except OSError as error:
            return BadInput(micrograph.path, f"cannot be read: {error.strerror or error}.")

    good: list[CachedMicrograph] = []
    bad: list[BadInput] = []
    with ThreadPoolExecutor(workers or min(8, available_cpus())) as pool:
        for done, result in enumerate(pool.map(one, micrographs), start=1):
            if isinstance(result, BadInput):
                bad.append(result)
            else:
                good.append(result)
            if on_done:
                on_done(done, len(micrographs))
    return PreparedPatches(tuple(good), tuple(bad))


def _prepare_one(preprocessing: PatchExtractor, micrograph: PickedMicrograph, cache_dir: Path) -> CachedMicrograph:
    content = checksum(micrograph.path)
    key = _key(preprocessing, micrograph, content)
    file = cache_dir / key[:2] / f"{key}.npy"
    if not file.exists():
        boxes = load_patches(preprocessing, micrograph)
        raw = io.BytesIO()
        np.save(raw, boxes, allow_pickle=False)
        write_atomically(file, raw.getvalue())
    return CachedMicrograph(micrograph, file, content)


def _key(preprocessing: PatchExtractor, micrograph: PickedMicrograph, content: str) -> str:
    ctf = repr(micrograph.ctf) if preprocessing.phase_flip else ""
    scale = f"{micrograph.pixel_size_A:.9g} {micrograph.diameter_A:.9g} {ctf}"
    what = "\0".join(("1", json.dumps(preprocessing.to_json(), sort_keys=True), content, scale))
    return fingerprint_of(what, np.ascontiguousarray(micrograph.centers_xy_px, "<f8").data)
