"""Where a model goes: feasibility, scoring and the explanation of every refusal. Start reading at `place`."""
