"""What server and client share: configuration, data, models, attacks, training and evaluation."""
