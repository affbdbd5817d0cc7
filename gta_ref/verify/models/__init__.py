"""Compare a whole model with its checkpoint, stage by stage, and name the first stage that is wrong."""
