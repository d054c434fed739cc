"""What a run or a study will cost, before it starts."""
