"""Form and deployments of a Kubernetes pool: each flow is one Kubernetes Job in our images.

Prefect's own package `prefect-kubernetes` has the worker, which submits these jobs. Stages of a pipeline run inside its
one job: only SLURM and Docker start a job for each stage.
"""

from __future__ import annotations

from typing import Any

from cryoflow.cluster.deployments import STAGES, engine_defaults, load_flow, tags_of
from cryoflow.cluster.forms import number_fields
from cryoflow.settings.profiles import INTERNAL_FLOWS
from cryoflow.settings.site import ClassName, ResourceClass, Site

POOL = "cryoflow-kubernetes"
WHOLE_PIPELINE: ClassName = "gpu"
"""Class of flows that elsewhere only start other stages: here they do the stages' work."""

_STRING = {"type": "string"}
_FIELDS: dict[str, dict[str, Any]] = {
    "image": _STRING | {"default": "cryoflow:cpu", "description": "Image of cryoflow, as the cluster's nodes pull it."},
    "cpus": {"type": "integer", "default": 1, "title": "CPUs", "description": "CPU cores."},
    "memory": _STRING | {"default": "4Gi", "description": "Memory of the job; Kubernetes kills a job that needs more."},
    "gpus": {"type": "integer", "default": 0, "title": "GPUs", "description": "Number of NVIDIA GPUs."},
    "time_limit_s": {"type": "integer", "default": 86400, "title": "Time limit (seconds)",
                     "description": "Kubernetes ends the job after this long."},
    "projects": _STRING | {"default": "cryoflow-projects", "description": "Volume claim of the projects, mounted "
                           "read-only at /data/projects."},
    "results": _STRING | {"default": "cryoflow-results", "description": "Volume claim of the results, mounted at "
                          "/data/cryoflow."},
    "namespace": _STRING | {"default": "cryoflow", "description": "Namespace of the jobs."},
    "user": {"type": "integer", "default": 1000, "description": "Number of the user that the job runs as."},
    "keep_s": {"type": "integer", "default": 3600, "title": "Keep ended jobs (seconds)",
               "description": "Kubernetes removes a job and its log so long after its end. Rarely needed."},
    "name": {"anyOf": [_STRING, {"type": "null"}], "default": None, "description": "Name of the job. Rarely needed."},
    "command": {"anyOf": [_STRING, {"type": "null"}], "default": None, "description": "Command of the run. Rarely "
                "needed."},
    "env": {"type": "object", "additionalProperties": {"anyOf": [_STRING, {"type": "null"}]},
            "title": "Environment variables", "description": "Variables of the run."},
    "labels": {"type": "object", "additionalProperties": _STRING, "description": "Labels of the job. Rarely needed."},
}  # fmt: skip
"""Fields of the pool's form, in their order."""


def pool_form() -> dict[str, Any]:
    """Return the base job template of a pool of the type `kubernetes`."""
    resources = {"cpu": "{{ cpus }}", "memory": "{{ memory }}", "nvidia.com/gpu": "{{ gpus }}"}
    container = {
        "name": "prefect-job",  # the name that Prefect's worker looks for
        "image": "{{ image }}",
        "imagePullPolicy": "IfNotPresent",
        "args": "{{ command }}",
        "env": "{{ env }}",
        "resources": {"limits": resources, "requests": resources},
        "volumeMounts": [
            {"name": "projects", "mountPath": "/data/projects", "readOnly": True},
            {"name": "results", "mountPath": "/data/cryoflow"},
        ],
    }
    volumes = [
        {"name": "projects", "persistentVolumeClaim": {"claimName": "{{ projects }}", "readOnly": True}},
        {"name": "results", "persistentVolumeClaim": {"claimName": "{{ results }}"}},
    ]
    pod = {
        "completions": 1,  # Prefect's worker refuses a form without these two here; Kubernetes ignores them
        "parallelism": 1,
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsUser": "{{ user }}", "runAsNonRoot": True},
        "containers": [container],
        "volumes": volumes,
    }
    manifest = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"generateName": "{{ name }}-", "namespace": "{{ namespace }}", "labels": "{{ labels }}"},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": "{{ time_limit_s }}",
            "ttlSecondsAfterFinished": "{{ keep_s }}",
            "template": {"spec": pod},
        },
    }
    job = {name: f"{{{{ {name} }}}}" for name in ("command", "env", "labels", "name", "namespace")}
    fields = {name: {"title": name.replace("_", " ").capitalize()} | field for name, field in _FIELDS.items()}
    form = {
        "job_configuration": {**job, "job_manifest": manifest, "stream_output": True},
        "variables": {"type": "object", "properties": fields, "additionalProperties": False},
    }
    return number_fields(form)


def deployments() -> dict[str, Any]:
    """Return the user's flows as a file for `prefect deploy --all --prefect-file`."""
    found: list[dict[str, Any]] = []
    for stage in STAGES:
        flow = load_flow(stage)
        if flow.name in INTERNAL_FLOWS:
            continue
        resources = Site().resource_class(stage.resources or WHOLE_PIPELINE)
        found.append({
            "name": f"{flow.name} (kubernetes)",
            "entrypoint": stage.entrypoint,
            "description": (flow.description or "").partition("\n")[0],
            "tags": tags_of(stage, flow.name, "kubernetes"),
            "work_pool": {"name": POOL, "job_variables": variables(resources) | {"env": engine_defaults()}},
        })  # fmt: skip
    anywhere = {"prefect.deployments.steps.set_working_directory": {"directory": "/tmp"}}  # noqa: S108 (the image's)
    return {"name": "cryoflow", "pull": [anywhere], "deployments": found}


def variables(resources: ResourceClass) -> dict[str, Any]:
    """Return the numbers of a class in the words of the pool's form."""
    return {
        "image": "cryoflow:gpu" if resources.gpus else "cryoflow:cpu",
        "cpus": resources.cpus,
        "memory": f"{round(resources.memory_gb * 1024)}Mi",
        "gpus": resources.gpus,
        "time_limit_s": resources.time_minutes * 60,
    }
