#!/bin/sh
# Installs cryoflow and what it needs into /opt/cryoflow, from the one lock. Runs inside an image that is being built:
#   install.sh cpu|gpu SOURCE
# `cpu` takes TensorFlow's CPU build of the locked version, a third of the size; `gpu` brings NVIDIA's libraries along.
set -eu
kind=$1
cd "$2"
export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_CONSTRAINT="$PWD/requirements.lock"
python3 -m venv /opt/cryoflow
pip() { /opt/cryoflow/bin/python -m pip --quiet "$@"; }
pip install setuptools wheel
case $kind in
    cpu)
        version=$(sed -n 's/^tensorflow==\([^ ;]*\).*/\1/p' requirements.lock)
        /opt/cryoflow/bin/python - > /tmp/requirements.txt <<'PY'
import tomllib

with open("pyproject.toml", "rb") as file:
    names = tomllib.load(file)["project"]["dependencies"]
print("\n".join(name for name in names if not name.startswith("tensorflow")))
PY
        pip install "tensorflow-cpu==$version" -r /tmp/requirements.txt
        pip install --no-deps --no-build-isolation .
        rm /tmp/requirements.txt
        ;;
    gpu) pip install --no-build-isolation ".[gpu]" ;;
    *) echo "install.sh: cpu or gpu, not '$kind'" >&2; exit 2 ;;
esac
# What only compiling against TensorFlow needs, and what only building needed
site=$(/opt/cryoflow/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
rm -rf "$site/tensorflow/include" "$site/clang"
pip uninstall --yes setuptools wheel
/opt/cryoflow/bin/python -c 'import prefect, cryoflow, flows, tensorflow'
