# Sourced by the other scripts: makes .venv in the repository's root, once, and again when what it is made from changes.
# usage: . scripts/environment.sh "" | . scripts/environment.sh "[dev]"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras="${1-}"

python=""
for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3 python; do
  if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python="$candidate"
    break
  fi
done
if [ -z "$python" ]; then
  echo "error: Python 3.11 or later is needed and none was found. Install it, or name it: PYTHON=/path/to/python3.11 $0" >&2
  exit 1
fi

stamp=".venv/installed${extras}"
wanted="$(cat pyproject.toml constraints.txt | cksum) $PWD"
# Asked for pip, since a `venv` that failed or was interrupted leaves a Python without it.
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  echo "making .venv with $("$python" --version)" >&2
  if ! "$python" -m venv --clear .venv; then
    echo "error: $python could not make .venv. On Debian or Ubuntu: apt install python3-venv;" \
      "elsewhere: a Python with its modules venv and ensurepip. Then run $0 again" >&2
    exit 1
  fi
fi
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  echo "installing binarynets${extras} into .venv (a few minutes the first time)" >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".${extras}"
  echo "$wanted" >"$stamp"
fi
