"""The parts of a VLM: encoders (timm), connectors (ours), LLMs (transformers), and the VLM that joins them."""
