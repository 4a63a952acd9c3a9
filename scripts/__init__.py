"""What makes the generated and recorded files, and proofs that the tests have no means for."""
