"""What server and client send each other: the only part of ``common`` that knows Flower."""
