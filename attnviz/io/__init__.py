"""Pictures, clips and sound in: the only room that opens them.

Whatever a picture file holds, what comes out is what a person sees: 8-bit sRGB, turned the right
way up, transparency laid on white. What was left aside, or stretched, is in the picture's notes.
"""
