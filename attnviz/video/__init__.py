"""A clip from file to file: every frame is asked, and all are drawn by one scale of colours."""
