"""What judges scenes: networks that were trained on scenes, and how they were."""
