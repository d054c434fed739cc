"""What the clients receive out of the server's pool: its images, or something made of them."""
