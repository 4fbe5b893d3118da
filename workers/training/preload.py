"""What the fork server imports, so that a trainer starts in hundredths of a second. It must never compute.

A parent that has computed with several threads hangs its forked children; importing is safe.
"""

import torch
import torch.optim

import workers.training.trainer

__all__ = ["torch", "workers"]
