"""Drawn scenes with exact masks: what the embedded model is trained on.

Everything is drawn, in batches, from a seed: natural-looking backgrounds, objects put together of
shaded parts, shadows, clutter, distractors, and what a camera does to it all.

>>> scenes = Scenes(seed=0).draw(8, height=96, width=144)
>>> scenes.pictures.shape, scenes.objects.shape
(torch.Size([8, 3, 96, 144]), torch.Size([8, 96, 144]))
"""

from scenes.scene import KINDS, UNSEEN, Batch, Scenes

__all__ = ["KINDS", "UNSEEN", "Batch", "Scenes"]
