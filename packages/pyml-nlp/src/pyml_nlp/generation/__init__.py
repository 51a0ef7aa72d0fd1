"""From token ids to text: prompts are prefilled, then decoded step by step, alone or several side by side."""
