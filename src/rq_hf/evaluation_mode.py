# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Methods of a model that work without dropout and leave its mode as it was, whichever threads use it."""

import functools
import threading
from collections.abc import Callable

from torch import nn

# Models that are without dropout for a while: calls that last, and the modules that are in training mode otherwise.
_evaluated: dict[nn.Module, tuple[int, list[nn.Module]]] = {}
_mode_lock = threading.Lock()


def in_evaluation_mode(method: Callable) -> Callable:
    """A method of a model without dropout, whatever the mode of the model, which it keeps."""

    @functools.wraps(method)
    def wrapped(self, *args, **kwargs):
        with _mode_lock:
            calls, training = _evaluated.get(self, (0, None))
            if calls == 0:  # the first of threads that use the model at once
                training = [module for module in self.modules() if module.training]
                for module in training:
                    module.training = False
            _evaluated[self] = calls + 1, training
        try:
            return method(self, *args, **kwargs)
        finally:
            with _mode_lock:
                calls, training = _evaluated.pop(self)
                if calls > 1:
                    _evaluated[self] = calls - 1, training
                else:
                    for module in training:
                        module.training = True

    return wrapped
