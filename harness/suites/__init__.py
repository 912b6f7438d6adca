"""Accuracy suites: what is drawn or read, what is asked, and how an answer is scored."""
