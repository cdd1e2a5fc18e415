"""What others can read: models as Hugging Face folders, prompts as tasks of lm-evaluation-harness."""
