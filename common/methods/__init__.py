"""Methods of federated learning: what a client does besides its local loss, and what the server makes of replies."""
