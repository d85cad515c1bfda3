"""CryoSPARC's job types: what kind of work each is, and what its output groups of particles mean."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cryoflow.negative_names import negative_words
from cryoflow.picks import Kind
from cryoflow.storage.safe_names import safe_name

_KINDS: dict[Kind, tuple[str, ...]] = {
    Kind.HOMO: ("homo_refine", "homo_refine_new"),
    Kind.NON_UNIFORM: ("nonuniform_refine", "nonuniform_refine_new"),
    Kind.LOCAL: ("local_refine", "new_local_refine", "naive_local_refine"),
    Kind.HELIX: ("helix_refine", "helix_refine_new"),
    Kind.HETERO: ("hetero_refine", "hetero_refine_new", "hetero_reconstruct", "hetero_reconstruct_new"),
    Kind.AB_INITIO: ("homo_abinit",),
    Kind.CLASS_3D: ("class_3D", "var_3D_disp", "regroup_3D", "regroup_3D_new"),
    Kind.CLASS_2D: ("class_2D", "class_2D_new", "class_2D_streaming"),
    Kind.SELECT_2D: ("select_2D", "reference_select_2D"),
    Kind.SELECT_3D: ("select_3D", "reference_select_3D"),
    Kind.MANUAL_PICK: ("manual_picker", "manual_picker_v2"),
    Kind.AUTO_PICK: (
        "blob_picker_gpu",
        "auto_blob_picker_gpu",
        "template_picker_gpu",
        "filament_tracer_gpu",
        "deep_picker_inference",
        "topaz_extract",
    ),
    Kind.INSPECT: ("inspect_picks", "inspect_picks_v2"),
    Kind.EXTRACT: (
        "extract_micrographs_multi",
        "extract_micrographs_cpu_parallel",
        "local_motion_correction",
        "local_motion_correction_multi",
        "reference_motion_correction",
    ),
    Kind.CURATE: (
        *("remove_duplicate_particles", "particle_sets", "rebalance_classes_2D", "class_probability_filter"),
        *("junk_filter", "junk_detector_v1", "junk_detector_beta1", "junk_particle_rejector_beta1"),
        *("curate_exposures", "curate_exposures_v2", "reassign_particles_mics", "downsample_particles"),
        *("restack_particles", "sym_expand", "homo_reconstruct", "rebalance_2D", "rebalance_3D", "reconstruct_2D"),
        *("reorder_3D", "align_3D", "align_3D_new", "volume_alignment_tools", "var_3D", "cache_particles"),
        *("check_corrupt_particles", "ctf_refine_local", "ctf_refine_global", "exposure_groups"),
        *("exposure_group_utilities", "particle_subtract"),
    ),
    Kind.IMPORT: ("import_particles", "import_result_group"),
    Kind.EXTERNAL: ("snowflake",),
}
_KIND_OF = {job_type: kind for kind, job_types in _KINDS.items() for job_type in job_types}
_VERSION = re.compile(r"(_v\d+|_beta\d*|_new|_gpu|_multi|_legacy)$")
_BY_WORD = (
    (re.compile(r"select_2D"), Kind.SELECT_2D),
    (re.compile(r"select_3D"), Kind.SELECT_3D),
    (
        re.compile(r"subset|rebalance|junk|curate|remove_duplicate|restack|downsample|subtract|reorder|regroup"),
        Kind.CURATE,
    ),
    (re.compile(r"ctf_refine|exposure_group|volume_align|align_3D|cache_particles|corrupt|particle_set"), Kind.CURATE),
    (re.compile(r"(local|reference)_motion"), Kind.EXTRACT),
)
"""What types that are not listed do, by a word in their names: new releases add variants of what is there."""

PICKING = frozenset({Kind.AUTO_PICK, Kind.INSPECT})
"""Kinds whose micrographs without picks were searched and found empty. After manual picking they may be unvisited."""

NOT_RECENTERED = {
    Kind.LOCAL: "shifts of a local refinement may be those of a part of the particle, so they were not applied",
}
"""Kinds whose own shifts do not lead to the particle's center, with the reason."""

_CLASS = re.compile(r"(?:^|_)class_(\d{1,4})$")
_MAIN = (
    "particles",
    "particles_selected",
    "particles_accepted",
    "particles_good",
    "particles_kept",
    "picked_particles",
    "extracted_particles",
    "imported_particles",
)


@dataclass(frozen=True)
class Role:
    """Role of an output group of particles.

    Attributes
    ----------
    suffix
        Suffix of its entry's name.
    class_number
        Of a group that holds one class.
    label
        -1 where its particles are known to be wrong, None where nothing is known.
    is_all_classes
        Good and junk classes together: never an entry as it is.
    """

    suffix: str = ""
    class_number: int | None = None
    label: int | None = None
    is_all_classes: bool = False


def kind_of(job_type: str) -> Kind:
    """Return what a job did by its type; later versions of a known type (`_v2`, `_new`) count as that type.

    >>> kind_of("nonuniform_refine_new"), kind_of("select_2D_v3"), kind_of("patch_motion_correction_multi")
    (<Kind.NON_UNIFORM: 'NonUniform'>, <Kind.SELECT_2D: 'Select2D'>, <Kind.OTHER: 'Other'>)
    """
    plain = job_type
    while True:
        for known in (plain, f"{plain}_new", f"{plain}_gpu"):
            if known in _KIND_OF:
                return _KIND_OF[known]
        shorter = _VERSION.sub("", plain)
        if shorter == plain:
            break
        plain = shorter
    return next((kind for word, kind in _BY_WORD if word.search(job_type)), Kind.OTHER)


def role_of(group_name: str, all_groups: tuple[str, ...]) -> Role:
    """Return what the output group of this name is, among all groups of particles of its job.

    >>> role_of("particles_class_1", ()).suffix, role_of("particles", ("particles",)).suffix
    ('class1', '')
    """
    if match := _CLASS.search(group_name):
        number = int(match[1])
        return Role(f"class{number}", class_number=number)
    if group_name.endswith("all_classes"):
        return Role(is_all_classes=True)
    main = next((name for name in (*_MAIN, *all_groups) if name in all_groups and not negative_words(name)), "")
    if group_name == main:
        return Role()
    short = group_name.removeprefix("particles_").replace("_", "") or group_name
    return Role(safe_name(short), label=-1 if negative_words(group_name) else None)
