"""Training: supervised, then task-aware reinforcement fine-tuning."""
