"""Batches of random views for training, in an order that depends on seed and epoch alone.

Patches stay on disk. Each epoch the micrographs are shuffled and read in groups that fit the memory given; picks are
shuffled within their group. A small training set is one group, which stays in memory.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from cryoflow.preparation.patches import PatchExtractor
from cryoflow.unpicker.patch_cache import CachedMicrograph


class TrainingBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of equal size for `model.fit`: augmented patches, and their labels and class priors.

    `class_priors` has the share of positives among unlabeled picks of each project; 0 for the others. With `teacher`,
    the logits of an earlier model by patches file, targets have two more columns: its logit, and whether it is known.

    Parameters
    ----------
    memory_bytes
        What boxes may take at a time.
    least_steps
        Batches of an epoch at least: a small training set is gone through several times, in other views each time;
        not always a whole number of times, so that one pick more or less never doubles an epoch.
    """

    def __init__(
        self,
        micrographs: Sequence[CachedMicrograph],
        preprocessing: PatchExtractor,
        *,
        batch: int,
        seed: int,
        contrast: float = 0.15,
        memory_bytes: int = 2 << 30,
        least_steps: int = 1,
        workers: int = 1,
    ) -> None:
        super().__init__(workers=workers, use_multiprocessing=False)
        self.micrographs = tuple(m for m in micrographs if len(m.labels))
        self.preprocessing = preprocessing
        self.seed, self.contrast, self.epoch = seed, contrast, 0
        self.class_priors: Mapping[str, float] = {}
        self.teacher: Mapping[Path, npt.NDArray[np.float64]] | None = None
        total = sum(len(m.labels) for m in self.micrographs)
        self.batch = min(batch, total)
        self._repeats = max(1.0, least_steps * self.batch / total)
        self._group_picks = max(4 * self.batch, memory_bytes // (2 * preprocessing.values_a_pick))
        self._lock = threading.Lock()
        self.loaded_group: tuple[tuple[int, ...], npt.NDArray[np.float16]] = ((), np.zeros(0, np.float16))
        self._plan()

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        group, rows = self.batches[index]
        boxes = self._boxes(group)
        rng = np.random.default_rng([self.seed, 2, self.epoch, index])
        members = [self.micrographs[i] for i in group]
        labels = np.concatenate([m.labels for m in members])
        priors = np.concatenate([np.full(len(m.labels), self.class_priors.get(m.data_set, 0.0)) for m in members])
        views = self.preprocessing.training_views(boxes[rows], rng, contrast=self.contrast)
        targets = [labels, priors]
        if self.teacher is not None:
            unknown = [np.full(len(m.labels), np.nan) for m in members]
            taught = np.concatenate(
                [self.teacher.get(m.patches_file, u) for m, u in zip(members, unknown, strict=True)]
            )
            targets += [np.nan_to_num(taught), np.isfinite(taught)]
        return views, np.column_stack(targets)[rows].astype(np.float32)

    def start_at(self, epoch: int) -> None:
        """Go to an epoch (from 0)."""
        self.epoch = epoch
        self._plan()

    def on_epoch_end(self) -> None:
        """Go on to the next epoch's order."""
        self.start_at(self.epoch + 1)

    def _plan(self) -> None:
        """Plan which rows of which group of micrographs each batch holds; the last batch of a group is filled up."""
        rng = np.random.default_rng([self.seed, 1, self.epoch])
        sizes = [len(m.labels) for m in self.micrographs]
        groups: list[list[int]] = [[]]
        if sum(sizes) <= self._group_picks:
            groups[0] = list(range(len(sizes)))
        else:
            held = 0
            for i in rng.permutation(len(sizes)):
                if held and held + sizes[i] > self._group_picks:
                    groups.append([])
                    held = 0
                groups[-1].append(int(i))
                held += sizes[i]
        self.batches: list[tuple[tuple[int, ...], npt.NDArray[np.intp]]] = []
        for group in groups:
            n = sum(sizes[i] for i in group)
            steps = math.ceil(round(n * self._repeats) / self.batch)
            rounds = math.ceil(steps * self.batch / n)
            rows = np.concatenate([rng.permutation(n) for _ in range(rounds)])[: steps * self.batch]
            self.batches += [(tuple(group), part) for part in rows.reshape(-1, self.batch)]

    def _boxes(self, group: tuple[int, ...]) -> npt.NDArray[np.float16]:
        with self._lock:
            if self.loaded_group[0] != group:
                self.loaded_group = ((), np.zeros(0, np.float16))  # free the last group before the next one is read
                self.loaded_group = (group, np.concatenate([self.micrographs[i].load() for i in group]))
            return self.loaded_group[1]
