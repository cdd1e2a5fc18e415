"""What the loss does not decide: language models on languages whose distribution is known exactly."""

__version__ = "0.1.0"
