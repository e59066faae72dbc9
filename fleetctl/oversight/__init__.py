"""What is in the cloud and whose it is, whoever made it: found, gone on with, or ended."""
