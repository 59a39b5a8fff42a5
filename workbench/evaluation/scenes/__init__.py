"""What judges images of scenes: a detector of objects, a small CLIP, and how they were trained."""
