"""Headings of the help that options stand under."""

LOOK, MODEL, WHERE = "What to look at", "Which model", "From where"
PICTURES, OUTPUT, MACHINE = "Pictures", "Output", "Machine"
PANELS = (LOOK, MODEL, WHERE, PICTURES, OUTPUT, MACHINE)
"""In this order; `--help` itself comes last."""
