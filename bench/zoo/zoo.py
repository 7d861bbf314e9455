"""The graphs of the zoo: who exports each, and what is expected of it."""
import dataclasses, pathlib
from typing import Callable

import by_hand, published, small


@dataclasses.dataclass
class Net:
    name: str
    export: Callable[[pathlib.Path], None]
    shapes: dict = dataclasses.field(default_factory=dict)  # lengths of free axes other than the batch
    prunable: bool = True   # half of the MACs can go
    runnable: bool = True   # the reference interpreter knows every operator


def nets():
    found = [Net(name, export, **expected) for room in (by_hand, small, published) for name, export, expected in room.nets()]
    assert len({net.name for net in found}) == len(found), "a name is taken twice"
    return found
