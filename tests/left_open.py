"""What a test opens and leaves open: `LEFT_OPEN.enter_context`; conftest.py closes it when the test ends.

Left to the garbage collector it would be closed within another test, whatever that one has set.
"""

from contextlib import ExitStack

LEFT_OPEN = ExitStack()
