"""What judges images of scenes: a detector of objects, and the scores it is asked for."""
