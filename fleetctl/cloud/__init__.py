"""Amazon behind thin walls: clients and the count of calls, EC2's verbs, S3, what refusals mean, calls with their intent written first."""
