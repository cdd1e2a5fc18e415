"""Floor 3: how else one can have (nearly) the same loss: a model in, another model out."""
