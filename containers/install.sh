#!/bin/sh
# Installs cryoflow and what it needs, or Topaz, into /opt/cryoflow, from the one lock. Runs in an image that is being built:
#   install.sh cpu|gpu|topaz SOURCE
# `cpu` takes TensorFlow's CPU build of the locked version, a third of the size; `gpu` brings NVIDIA's libraries along;
# `topaz` is the picker Topaz alone, from pyproject.toml's group of that name.
set -eu
kind=$1
cd "$2"
export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
export PIP_CONSTRAINT="$PWD/requirements.lock" PIP_FIND_LINKS="$PWD/wheels"
mkdir -p wheels
bin=/opt/cryoflow/bin
list=/opt/cryoflow/requirements.txt  # not in /tmp: an Apptainer build has that of its host
python3 -m venv /opt/cryoflow
pip() { "$bin/python" -m pip --quiet "$@"; }
pip install setuptools wheel
site=$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
requirements() {  # requirements TABLE...: a list of pyproject.toml, without TensorFlow
    "$bin/python" - "$@" <<'PY'
import sys, tomllib

with open("pyproject.toml", "rb") as file:
    table = tomllib.load(file)
for name in sys.argv[1:]:
    table = table[name]
print("\n".join(line for line in table if not line.startswith("tensorflow")))
PY
}
case $kind in
    cpu)
        requirements project dependencies > "$list"
        pip install "tensorflow-cpu==$(sed -n 's/^tensorflow==\([^ ;]*\).*/\1/p' requirements.lock)" -r "$list"
        pip install --no-deps --no-build-isolation .
        ;;
    gpu) pip install --no-build-isolation ".[gpu]" ;;
    topaz)
        requirements dependency-groups topaz > "$list"
        pip install -r "$list"
        if ! "$bin/python" -c 'import torchvision' 2>/dev/null; then
            # Beside a PyTorch for CPUs, PyPI's torchvision cannot load its compiled part. Topaz uses only its Python part,
            # which loads once the two operators that it names are declared.
            cat > "$bin/topaz" <<PY
#!$bin/python
import sys
import torch
library = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from topaz.main import main
sys.exit(main())
PY
        fi
        ;;
    *) echo "install.sh: cpu, gpu or topaz, not '$kind'" >&2; exit 2 ;;
esac
rm -f "$list"
case $kind in topaz) program=topaz ;; *) program=cryoflow ;; esac
ln -s "$program" "$bin/main"  # what the image runs when it is told nothing
# What only compiling against TensorFlow and PyTorch needs, and what only building needed
rm -rf "$site/tensorflow/include" "$site/clang" "$site/torch/include"
[ "$kind" = topaz ] || pip uninstall --yes setuptools wheel
case $kind in
    topaz) "$bin/topaz" train --help > /dev/null ;;
    *) "$bin/python" -c 'import prefect, cryoflow, flows, tensorflow' ;;
esac
