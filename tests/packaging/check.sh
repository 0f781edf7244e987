#!/bin/sh
# The package as a stranger gets it: built, installed alone, with the oldest versions allowed, and
# resolved for later Pythons. Needs a package index; takes minutes. `sh tests/packaging/check.sh [WORK]`
# With SWEEP=1 also what trains and serves: some GB, a quarter of an hour more.
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
    analysis/templates/report.html.jinja data/isoflops_curves.json model/between.cpp; do
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

echo "== later Pythons resolve"
for version in 3.12 3.13; do
    tools/bin/uv pip compile --quiet --python-version "$version" --extra sweep --extra dev \
        "$root/pyproject.toml" -o "for-$version.txt" && echo "$version: $(grep -c == "for-$version.txt") packages"
done
if [ "${SWEEP:-}" ]; then
    echo "== sweep extra, smoke sweep"
    tools/bin/uv pip install --quiet --python base/bin/python "$wheel[sweep]"
    (cd elsewhere && ../base/bin/isoflop run smoke.toml --yes --dir smoke)
fi

extras=dev tests="tests/analysis tests/tuner/test_tuner_config.py tests/tuner/test_tuner_plan.py tests/test_*.py"
if [ "${SWEEP:-}" ]; then
    extras="sweep serve dev" tests="tests"
fi
echo "== oldest versions allowed, base $extras"
tools/bin/uv venv --quiet --python "$python" oldest
# Each bound as it stands: a resolver may pass over one that something else rules out. Without
# schemathesis, a client of ours in one test, which wants a newer rich than our own does.
"$python" - "$root/pyproject.toml" $extras > bounds.txt <<'PY'
import re, sys, tomllib
from pathlib import Path
project = tomllib.loads(Path(sys.argv[1]).read_text())["project"]
lines = [*project["dependencies"], *(x for e in sys.argv[2:] for x in project["optional-dependencies"][e])]
bounds = [re.sub(r">=([\d.]+)[^;]*", r"==\1.*", line) for line in lines]
print(*(bound for bound in bounds if not bound.startswith("schemathesis")), sep="\n")
PY
tools/bin/uv pip install --quiet --python oldest/bin/python --resolution lowest-direct -r bounds.txt
tools/bin/uv pip install --quiet --python oldest/bin/python --no-deps "$wheel"
cat bounds.txt
cd "$root" && CI=true "$work/oldest/bin/python" -m pytest -q -p no:cacheprovider -m "not slow and not ray" $tests
