"""What is wrong with a picker's folder is said before its program starts; a damaged set is not taken for a good one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cryoflow.errors import BadInput
from cryoflow.micrographs.image import write_mrc
from cryoflow.pickers.registry import picker
from cryoflow.pickers.running.preflight import preflight, problems_of
from cryoflow.pickers.training_sets.export import ExportResult, export
from cryoflow.pickers.training_sets.split import Fractions

SPLIT = Fractions(0.2, 0.2)


def first(folder: Path, pattern: str) -> Path:
    """The first file that is not empty, so that damage to it matters."""
    return next(p for p in sorted(folder.glob(pattern)) if p.stat().st_size)


def swap_picture(path: Path) -> None:
    path.unlink()
    write_mrc(path, np.zeros((100, 200), np.float32), 4.0)


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a link that leads nowhere": (
        "cryolo",
        lambda f: (p := first(f, "train_image/*"), p.unlink(), p.symlink_to("/nowhere/a.mrc")),
        "cannot be read",
    ),
    "a picture that is gone": ("cryolo", lambda f: first(f, "train_image/*").unlink(), "has no picture"),
    "another picture": ("cryolo", lambda f: swap_picture(first(f, "train_image/*")), "is 100 x 200 pixels now"),
    "a label that is gone": ("cryolo", lambda f: first(f, "train_annot/*").unlink(), "no file of labels"),
    "a label of another name": (
        "cryolo",
        lambda f: (p := first(f, "train_annot/*")).rename(p.with_name(p.name.partition("__")[2])),
        "belongs to no picture",
    ),
    "a label that fits two pictures": (
        "cryolo",
        lambda f: shutil.copy(p := first(f, "train_image/*"), p.with_name(p.stem + "_denoised.mrc")),
        "fits 2 pictures",
    ),
    "a label of words": ("cryolo", lambda f: first(f, "train_annot/*").write_text("nothing here\n"), "box"),
    "a label of blank lines": ("cryolo", lambda f: first(f, "train_annot/*").write_text("\n"), "blank lines only"),
    "boxes outside": ("cryolo", lambda f: first(f, "train_annot/*").write_text("5000\t9\t30\t30\n"), "outside its"),
    "boxes without a size": (
        "cryolo",
        lambda f: first(f, "train_annot/*").write_text("9\t9\t0\t0\n"),
        "without a size",
    ),
    "no configuration": ("cryolo", lambda f: (f / "config_cryolo.json").unlink(), "config_cryolo.json"),
    "half a configuration": ("cryolo", lambda f: (f / "config_cryolo.json").write_text('{"model'), "config_cryolo"),
    "no table": ("topaz", lambda f: (f / "particles_train.txt").unlink(), "particles_train.txt: cannot be read"),
    "a table of another name": (
        "topaz",
        lambda f: (t := f / "particles_train.txt").write_text(t.read_text().replace("__mic", "_mic")),
        "is not in image_list_train.txt",
    ),
    "a listed image without a picture": (
        "topaz",
        lambda f: (t := f / "image_list_validation.txt").write_text(
            t.read_text() + "000099__x\tproc/000099__x.mrc\t0\n"
        ),
        "000099__x of image_list_validation.txt has no picture",
    ),
    "positions that were not scaled down": (
        "topaz",
        lambda f: (t := f / "particles_train.txt").write_text(
            "".join(
                line if i == 0 else "\t".join([w[0], str(4 * int(w[1])), str(4 * int(w[2])), w[3]]) + "\n"
                for i, line in enumerate(t.read_text().splitlines(keepends=True))
                for w in [line.split()]
            )
        ),
        "has particles outside",
    ),
    "a missing label of EPicker": ("epicker", lambda f: first(f, "labels/*").unlink(), "no file of labels"),
    "a cut label of EPicker": ("epicker", lambda f: first(f, "labels/*").write_bytes(b""), "is empty"),
    "a missing mask": ("cryosegnet", lambda f: first(f, "finetune_dataset/masks/*").unlink(), "has no mask"),
    "a missing TIFF": ("warp", lambda f: first(f, "examples/*").unlink(), "has no picture"),
    "a cut TIFF": ("warp", lambda f: first(f, "examples/*").write_bytes(b""), "is no TIFF"),
    "a missing picture of EMAN2": ("eman2", lambda f: first(f, "micrographs/*").unlink(), "has no picture"),
}
"""What -> picker, how the folder is damaged, and what must be said."""


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found_told_and_mended_by_writing_anew(make_entry, tmp_path, what):
    name, damage, said = DAMAGE[what]
    entry, out = make_entry(n=7, n_empty=1), tmp_path / "a set"
    target = picker(name)

    def write(**options: bool) -> ExportResult:
        return export(
            name, [entry], out, split=SPLIT, settings={"pixel_size": 4.0} if name == "warp" else {}, **options
        )

    assert not write().reused
    assert problems_of(target, out) == []
    written = {str(p.relative_to(out)) for p in out.rglob("*")}
    damage(out)
    assert [p for p in problems_of(target, out) if said in p]
    with pytest.raises(BadInput, match=r"cannot be used as it is: .*Export it again"):
        preflight(target, out)
    foreign = {
        str(p.relative_to(out)): p for p in out.rglob("*") if not p.is_dir() and str(p.relative_to(out)) not in written
    }
    if foreign:  # the files of the export are sound or can be restored; these are not of it
        with pytest.raises(BadInput, match=r"other files that spoil it: .*--overwrite"):
            write() and write()
        assert not write(overwrite=True).reused
        return
    restored = write()
    assert restored.reused
    assert len(restored.restored) == 1
    assert "Deleted or changed files are written again (1)" in restored.notes[-1]
    assert problems_of(target, out) == []
    assert write(overwrite=True).restored == ()  # sound and the same: left as it is


def test_all_annotations_of_cryolo_are_checked_in_cbox_too(make_entry, tmp_path):
    result = export("cryolo", [make_entry(n=5, n_empty=1)], tmp_path / "set", settings={"annotation": "cbox"})
    label = first(result.folder, "train_annot/*")
    assert problems_of(picker("cryolo"), result.folder) == []
    label.write_text(label.read_text().replace("data_cryolo\n", "data_x\n").replace("_Width", "_Wide"))
    with pytest.raises(BadInput, match="cannot be used as it is"):
        preflight(picker("cryolo"), result.folder)
