"""How many compiled kernels run side by side.

Belongs here: the number, and running a task on each piece of a range. Does not: any kernel.
"""

from __future__ import annotations

import os

THREADS = os.cpu_count() or 1
