"""From a trained float network to one that survives int8."""
