"""What a session looks after while it lives: its channel and its place in S3, its books, its machines' fuses."""
