#!/bin/sh
# What a machine with a GPU can give in ten minutes: tools/gpu.sh [--out FOLDER] [--seconds 600]; see docs/speed.md
root=$(cd "$(dirname "$0")/.." && pwd)
python=$root/.venv/bin/python
[ -x "$python" ] || python=${PYTHON:-python3}
exec "$python" "$root/tools/gpu.py" "$@"
