"""Task families of reinforcement fine-tuning, one file each: prompt, parser, metric and reward side by side.

`TASKS` holds them by name, `rl_rows` makes rows to train on, `reward_functions` gives trl's form. See docs/rewards.md.
"""

from slidekick.rl.tasks.generic import GENERIC
from slidekick.rl.tasks.reward_functions import generic_reward, reward_functions
from slidekick.rl.tasks.rows import SLIDE_TASKS, TASKS, is_read, right_turn, rl_rows
from slidekick.rl.tasks.task import Reward, Rollout, Row, Task, ToolStep

__all__ = [
    "GENERIC",
    "SLIDE_TASKS",
    "TASKS",
    "Reward",
    "Rollout",
    "Row",
    "Task",
    "ToolStep",
    "generic_reward",
    "is_read",
    "reward_functions",
    "right_turn",
    "rl_rows",
]
