"""The paper's figures and tables: each module collects a frame of tracked runs and draws it."""
