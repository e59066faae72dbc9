"""The in-memory AWS is that of the tests of the fleet."""

import sys
from pathlib import Path

for folder in ("fleet", "chaos"):
    sys.path.insert(0, str(Path(__file__).parent.parent / folder))
