#!/usr/bin/env bash
# Makes the virtual environment .venv and installs the project with all that its tests need.
# Usage: scripts/setup.sh             PYTHON=/path/to/python scripts/setup.sh chooses the interpreter
#        scripts/setup.sh backends    adds JAX and PyTorch, see docs/backends.md
#
# .venv/.unfinished marks a set-up that has begun; it becomes .venv/.installed when all is done. An
# interrupted set-up leaves the first and is begun anew, so a half-made environment is never used.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=.venv
RANGE="3.11 to 3.13"

fail() {
    echo "set-up: $*" >&2
    exit 1
}

in_range() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null
}

# Prints the first interpreter that is in range and can make virtual environments with pip.
find_python() {
    local candidate bare=""
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
        in_range "$candidate" || continue
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            echo "$candidate"
            return
        fi
        bare=${bare:-$candidate}
    done
    [ -z "$bare" ] || fail "$bare lacks the venv module: install it (Debian, Ubuntu:" \
        "apt-get install python3-venv), or name another interpreter with PYTHON=..."
    [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is not a Python $RANGE"
    fail "no Python $RANGE found: install one, or name it with PYTHON=/path/to/python"
}

# Runs pip and shows a dot for each package, so that minutes of downloading are seen to move.
pip_install() {
    "$VENV/bin/python" -m pip install --disable-pip-version-check --progress-bar off "$@" |
        while read -r word next _; do
            case $word in
                Collecting) printf . ;;
                Installing) [ "$next" != collected ] || printf ' unpacking' ;;
            esac
        done
    echo
}

# Slim systems lack the libraries that opencv-python draws windows with; its headless twin needs none.
mend_opencv() {
    local version
    "$VENV/bin/python" -c 'import cv2' 2>/dev/null && return
    version=$("$VENV/bin/python" -c '
from importlib.metadata import version
print(version("opencv-python").rsplit(".", 1)[0])')
    echo "set-up: this system has no libGL, so opencv-python is replaced by opencv-python-headless"
    "$VENV/bin/python" -m pip uninstall --quiet --yes opencv-python
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --force-reinstall "opencv-python-headless==$version.*"
    "$VENV/bin/python" -c 'import cv2' || fail "OpenCV cannot be imported, see the line above"
}

if [ "${1:-}" = backends ]; then
    echo "set-up: adding JAX and PyTorch"
    pip_install --editable '.[jax,torch]'
    mend_opencv
    touch "$VENV/.backends"
    exit
fi

if [ -e "$VENV/.unfinished" ] || ! in_range "$VENV/bin/python"; then
    python=$(find_python)
    echo "set-up: making $VENV with $("$python" --version)"
    "$python" -m venv --clear "$VENV"
    echo "set-up: installing TensorFlow and the rest, about 2 GB and 3 minutes"
else
    echo "set-up: updating $VENV"
fi
rm -f "$VENV/.installed"
touch "$VENV/.unfinished"

pip_install --editable '.[test]'
mend_opencv

mv "$VENV/.unfinished" "$VENV/.installed"
echo "set-up: done"
