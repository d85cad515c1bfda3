"""What a stage's container is started with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cryoflow.cluster.docker import variables
from cryoflow.errors import BadInput
from cryoflow.settings.site import ResourceClass, Site


def test_results_belong_to_who_deployed_and_any_user_has_a_home() -> None:
    values = variables(Site(), ResourceClass(), "cryoflow:cpu")
    assert values["container_create_kwargs"] == {"user": f"{os.getuid()}:{os.getgid()}"}
    assert values["env"]["HOME"] == "/tmp"
    assert values["env"]["PREFECT_HOME"].startswith("/tmp/")


def test_a_gpu_is_asked_for_where_the_site_has_an_image_for_it() -> None:
    gpu = ResourceClass(gpus=2)
    asked = variables(Site(gpu_image="cryoflow:gpu"), gpu, "cryoflow:gpu")["container_create_kwargs"]["device_requests"]
    assert asked == [{"Count": 2, "Capabilities": [["gpu"]]}]
    assert "device_requests" not in variables(Site(), gpu, "cryoflow:cpu")["container_create_kwargs"]


def test_docker_takes_the_request_for_a_gpu_as_it_is_written() -> None:
    """As prefect-docker hands it on: to the SDK's `create`."""
    from docker.types import HostConfig

    site = Site(gpu_image="cryoflow:gpu")
    requests = variables(site, ResourceClass(gpus=1), "cryoflow:gpu")["container_create_kwargs"]["device_requests"]
    (request,) = HostConfig(version="1.43", device_requests=requests)["DeviceRequests"]
    assert request["Count"] == 1
    assert request["Capabilities"] == [["gpu"]]


def test_a_folder_that_dockers_volumes_cannot_have_is_refused() -> None:
    with pytest.raises(BadInput, match="colon"):
        variables(Site(read_only=(Path("/data/a:b"),)), ResourceClass(), "cryoflow:cpu")
