"""Training of the reference family: pool (images) -> pretrain (encoder) -> instruct (connector and LLM, then all)."""
