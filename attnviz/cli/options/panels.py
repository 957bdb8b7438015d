"""The headings under which the help shows options."""

LOOK, MODEL, WHERE = "What to look at", "Which model", "From where"
PICTURES, OUTPUT, MACHINE = "Pictures", "Output", "Machine"
PANELS = (LOOK, MODEL, WHERE, PICTURES, OUTPUT, MACHINE)
"""All headings in the order of the help; `--help` itself comes last."""
