"""From questions to answers, and what they would score without a look."""
