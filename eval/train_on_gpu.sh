#!/bin/sh
# Trains the painter on one GPU, unattended, in 12 minutes, and leaves weights, logs and sheets of
# samples in $OUT. No network: what it needs is prepared beforehand, on any machine, by
#
#   textseg train --recipe painter --packages node_modules --backgrounds views/ --prepare \
#       --work PREPARED -o unused
#
# which leaves drawings.npz and autoencoder.pt (under 30 MB together) in PREPARED. Then, on the GPU:
#
#   OUT=results sh eval/train_on_gpu.sh PREPARED [HOURS [OPTION ...]]
#
# HOURS, 0.16 if not given, are those of the denoiser; starting, composing and compiling take two
# minutes more. Options are those of `textseg train`. The model is written at every checkpoint, so
# that one is there however it ends. It goes on where it was cut short if $WORK is the same folder,
# of half a gigabyte. $DEVICE is another device than cuda.
set -eu
prepared=${1:?PREPARED must be a folder}
hours=${2:-0.16}
[ $# -lt 2 ] && shift || shift 2
work=${WORK:-$(mktemp -d)}
mkdir -p "${OUT:?OUT must be a folder for the results}" "$work"
for file in drawings.npz autoencoder.pt; do
    [ -e "$work/$file" ] || cp "$prepared/$file" "$work/"
done
keep() {
    for file in "$work"/*.jsonl "$work"/samples-*.png; do
        [ ! -e "$file" ] || cp "$file" "$OUT/"
    done
}
trap keep EXIT
trap 'exit 143' TERM INT
"${PYTHON:-python}" -m textseg train --recipe painter --device "${DEVICE:-cuda}" \
    --work "$work" -o "$OUT/painter" --hours "$hours" \
    --batch 512 --warmup 200 --save-every 120 "$@"
