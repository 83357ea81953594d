"""Parts with known behaviour, for the tests of own judges, generators and strategies."""
