#!/bin/sh
# What needs a GPU of 80 GB to be known, unattended, under 10 minutes, without a network: every
# family in float16 and bfloat16 against float32 on the CPU, on tiny pipelines; speed and memory of
# Stable Diffusion 1.5, SDXL and a transformer of Flux.1's size, with random weights, compiled and
# offloaded; the tests marked `gpu`. Tables and figures go to $OUT (default: here), a line for each
# step to the output.
#
#   OUT=results sh eval/check_on_gpu.sh
#
# $PYTHON is the interpreter. TINY=1 DEVICE=cpu tries the script out where there is no GPU.
set -u
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python} device=${DEVICE:-cuda} out=${OUT:-.}
export HF_HUB_OFFLINE=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
if [ "$device" = cuda ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'
then
    echo "check_on_gpu: no CUDA here; run it where torch.cuda.is_available()" >&2
    exit 2
fi
mkdir -p "$out" || exit 2
failed=0
step() {  # SECONDS NAME COMMAND...: its output in $out/NAME.txt
    seconds=$1 name=$2
    shift 2
    if timeout "$seconds" "$@" >"$out/$name.txt" 2>&1; then
        echo "$name: done"
    else
        echo "$name: failed or took over $seconds s, see $out/$name.txt"
        failed=1
    fi
}
bench() {  # NAME FAMILY OPTION...
    name=$1 family=$2
    shift 2
    step "$limit" "$name" "$python" eval/bench_families.py "$family" --device "$device" \
        --repeats 3 --output "$out/$name.json" ${TINY:+--tiny} "$@"
}
tests() {
    step 100 tests env DEVICE="$device" "$python" -m pytest -m gpu -q -rs -p no:cacheprovider \
        ${TINY:+-k "half and sd3"} tests/test_on_gpu.py
}
limit=60
if [ -n "${TINY:-}" ]; then
    step 200 families "$python" eval/check_families.py --device "$device" --dtypes bfloat16 \
        --families sd3 kandinsky5 --output "$out/families.json"
    bench sd15 sd15
    tests
    exit $failed
fi
step 170 families "$python" eval/check_families.py --output "$out/families.json"
tests
bench sd15 sd15 --dtype float16
bench sdxl sdxl --dtype float16
bench sdxl-offload sdxl --dtype float16 --offload model
bench flux flux
limit=80
bench sd15-compiled sd15 --dtype float16 --compiled
exit $failed
