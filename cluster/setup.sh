#!/usr/bin/env bash
# Makes a machine ready for sweeps: environment, project, check. Every way to a cluster runs it on
# every node; run again it costs seconds.
#
#     bash cluster/setup.sh [REPOSITORY [ENVIRONMENT]]
set -euo pipefail

repository="${1:-$HOME/isoflop}"
environment="${2:-$HOME/isoflop-env}"
export UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}" # uv does not read pip's settings

# Nodes must agree on Python to the minor version: uv brings its own, whatever the image has.
if ! command -v uv >/dev/null; then
    python3 -m pip install --quiet --user --break-system-packages uv 2>/dev/null ||
        python3 -m pip install --quiet --user uv
    export PATH="$HOME/.local/bin:$PATH"
fi
test -x "$environment/bin/python" || uv venv --python 3.11 "$environment"
uv pip install --quiet --python "$environment/bin/python" -e "$repository[sweep]"

line="export PATH=\"$environment/bin:\$PATH\""
grep -qxF "$line" ~/.bashrc 2>/dev/null || echo "$line" >>~/.bashrc
ulimit -n 65536 2>/dev/null || true
cd "$repository"
"$environment/bin/isoflop" doctor
