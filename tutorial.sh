#!/bin/sh
# A first hour with isoflop, in two minutes on a laptop: run it, or copy it line by line.
#
#     . .venv/bin/activate && sh tutorial.sh
#
# Steps 1 to 4 need the base install only; 5 to 7 the extra `sweep`.
set -eu
out=${1:-runs/tutorial}
mkdir -p "$out"

# 1. Laws from a table of runs. This one ships with isoflop; yours may be any CSV, JSON or Parquet
#    with two of compute, parameters and tokens, and the loss. Each approach is one block; the last
#    lines say which one is followed and where they disagree.
isoflop fit data/isoflops_curves.json --replicates 200

# 2. One answer: what to train with 1e22 FLOP. Every number has its 95 % interval; lines that begin
#    with ! say what not to trust.
isoflop predict data/isoflops_curves.json --budget 1e22

# 3. The same as a page to send around, and as Markdown to hand in.
isoflop -q report data/isoflops_curves.json --budget 1e22 -o "$out/table.html"

# 4. Before a sweep: what it will do and cost at most. Settings are laid over the file.
isoflop plan tuner/sweeps/law.toml -s search.trials=3

# 5. A whole sweep, in which a known law answers in place of training: L = 1.69 + 406.4 / N^0.34 +
#    410.7 / D^0.28. Ctrl-C at any time; `isoflop resume` goes on.
isoflop run tuner/sweeps/law.toml -s search.trials=3 --yes --dir "$out/law"
isoflop status "$out/law"

# 6. Is the answer right? By that law N_opt = 1.8e9 at 1e21 FLOP where C = 6 N D; the sweep counts every
#    matrix product, attention too, so its optimum lies a little lower.
isoflop -q predict "$out/law" --budget 1e21 --json > "$out/answer.json"
cat "$out/answer.json"

# 7. An optimum on the edge: a ladder that ends too early, with extension off. The plan is content;
#    the report says in words which sizes are missing. The cure is a longer ladder, or none written and
#    extension on.
isoflop run tuner/sweeps/law.toml --yes --dir "$out/edge" -s search.trials=2 \
    -s 'shapes.ladder=[[2,64],[2,128],[3,192],[4,256]]' -s search.extend=false
grep "add larger sizes" "$out/edge/report.md"
echo "open $out/law/report.html; lay both over each other: isoflop report $out/law $out/edge"
