"""The generalist: model, tools, evidence, answers."""
