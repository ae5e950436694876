#!/bin/sh
# Trains the painter on one GPU, unattended, in 12 minutes, and leaves weights, log and sheets of
# samples in $OUT. No network: what it needs is prepared beforehand, on any machine, by
#
#   textseg train --recipe painter --packages node_modules --backgrounds views/ --prepare \
#       --work PREPARED -o unused
#
# which leaves drawings.npz and autoencoder.pt (30 MB together) in PREPARED. Then, on the GPU:
#
#   OUT=results sh eval/train_on_gpu.sh PREPARED [HOURS]
#
# It goes on where it was cut short if WORK is given and kept; each checkpoint is 260 MB, so that
# WORK is not $OUT.
set -eu
prepared=$1
hours=${2:-0.155}
work=${WORK:-$(mktemp -d)}
mkdir -p "$OUT" "$work"
for file in drawings.npz autoencoder.pt; do
    [ -e "$work/$file" ] || cp "$prepared/$file" "$work/"
done
keep() { cp "$work"/*.jsonl "$work"/samples-*.png "$OUT"/ 2>/dev/null || true; }
trap keep EXIT
python -m textseg train --recipe painter --device cuda --work "$work" -o "$OUT/painter" \
    --hours "$hours" --batch 512 --pool 80000 --warmup 200 --save-every 120
