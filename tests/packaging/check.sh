#!/bin/sh
# The package as a stranger gets it: built, installed alone, with the oldest versions allowed, and
# resolved for later Pythons. Needs a package index; takes minutes. `sh tests/packaging/check.sh [WORK]`
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
work=${1:-$(mktemp -d)}
python=${PYTHON:-python3}
export UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}" OMP_NUM_THREADS=1
mkdir -p "$work" && cd "$work"
"$python" -m venv tools && tools/bin/python -m pip install --quiet build uv

echo "== wheel and sdist"
tools/bin/python -m build --outdir dist "$root" > build.log 2>&1 || { tail -20 build.log; exit 1; }
wheel=$(ls dist/*.whl)
tools/bin/python -m zipfile -l "$wheel" > contents.txt
for file in tuner/sweeps/demo.toml analysis/assets/plotly-basic.min.js analysis/assets/plotly-LICENSE \
    analysis/templates/report.html.jinja data/isoflops_curves.json; do
    grep -q "$file" contents.txt || { echo "wheel lacks $file"; exit 1; }
done

echo "== base install, neither torch nor Ray"
tools/bin/uv venv --quiet --python "$python" base
tools/bin/uv pip install --quiet --python base/bin/python "$wheel"
mkdir -p elsewhere && cd elsewhere
cp "$root/data/isoflops_curves.json" runs.json
../base/bin/python - <<'PY'
import importlib.util, resource, subprocess, sys
from pathlib import Path
assert not [n for n in ("torch", "ray", "optuna") if importlib.util.find_spec(n)]
isoflop = str(Path(sys.executable).parent / "isoflop")
def cpu(*words, command=isoflop):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([command, *words], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
# On a machine that does other work a second is longer: what an import takes says by how much.
imports = min(cpu("-c", "import pandas, scipy.stats", command=sys.executable) for _ in range(2))
print(f"import pandas, scipy.stats: {imports:.2f} s of CPU; about 1 s where nothing else runs")
for words, most in ((["--help"], 0.3), (["fit", "runs.json"], 3.0)):
    cpu(*words)  # bytecode is written the first time
    seconds = min(cpu(*words) for _ in range(2))
    print(f"isoflop {' '.join(words)}: {seconds:.2f} s of CPU, at most {most} on a quiet machine")
    assert seconds <= most * max(imports, 1.0)
PY
cd ..

echo "== oldest versions allowed, base and dev"
tools/bin/uv venv --quiet --python "$python" oldest
# The bounds are direct requirements of pyproject.toml; through the wheel they would be indirect.
tools/bin/uv pip install --quiet --python oldest/bin/python --resolution lowest-direct \
    -r "$root/pyproject.toml" --extra dev
tools/bin/uv pip install --quiet --python oldest/bin/python --no-deps "$wheel"
tools/bin/uv pip freeze --python oldest/bin/python | grep -i -E \
    "^(numpy|scipy|pandas|threadpoolctl|pyarrow|matplotlib|jinja2|typer|rich|pydantic|tomli-w|filelock|pytest|hypothesis|ruff|pyrefly|import-linter)=="
cd "$root" && CI=true "$work/oldest/bin/python" -m pytest -q -p no:cacheprovider -m "not slow and not ray" \
    tests/analysis/test_analysis_tables.py tests/analysis/test_analysis_laws.py \
    tests/analysis/test_analysis_fit.py tests/analysis/test_figures_laws.py \
    tests/analysis/test_interactive.py tests/analysis/test_report_write.py \
    tests/tuner/test_tuner_config.py tests/tuner/test_tuner_plan.py tests/test_newcomer.py \
    tests/test_reference.py tests/test_readme.py
cd "$work"

echo "== later Pythons resolve"
for version in 3.12 3.13; do
    tools/bin/uv pip compile --quiet --python-version "$version" --extra sweep --extra dev \
        "$root/pyproject.toml" -o "for-$version.txt" && echo "$version: $(grep -c == "for-$version.txt") packages"
done
if [ "${SWEEP:-}" ]; then
    echo "== sweep extra, smoke sweep"
    tools/bin/uv pip install --quiet --python base/bin/python "$wheel[sweep]"
    cd elsewhere && ../base/bin/isoflop run "$root/tuner/sweeps/smoke.toml" --yes --dir smoke
fi
