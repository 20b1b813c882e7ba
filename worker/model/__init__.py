"""Model artifacts: what they hold, how they are checked, made and fed with labels."""
