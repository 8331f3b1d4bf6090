# pyarrow brings no types of its own: whatever it has counts as Any.
from typing import Any

def __getattr__(name: str) -> Any: ...
