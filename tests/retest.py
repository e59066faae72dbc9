"""Runs the tests that failed the last time once more, one after the other: `make retest`.

For CI only after a run in which few failed. What fails again is a fault; what passes now is named, for it wants mending too.
"""

import json
import subprocess
import sys
from pathlib import Path

MOST = 5        # more than that is no accident
FAILED = Path(".pytest_cache/v/cache/lastfailed")


def main() -> int:
    failed = sorted(json.loads(FAILED.read_text())) if FAILED.exists() else []
    if not 0 < len(failed) <= MOST:
        print(f"retest: {len(failed)} tests failed; only 1 to {MOST} are tried again", file=sys.stderr)
        return 1
    code = subprocess.run([sys.executable, "-m", "pytest", "-n", "0", *failed]).returncode
    print(f"retest: {'failed again, among' if code else 'passed only the second time, mend'}: {'; '.join(failed)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
