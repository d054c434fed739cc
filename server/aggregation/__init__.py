"""From the replies of a round to the next global model."""
