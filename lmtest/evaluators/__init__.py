"""Floor 5: model + language in, measurements out."""
