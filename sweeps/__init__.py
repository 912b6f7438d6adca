"""The questions: Hydra's config root. Every YAML below is one option of a group or one sweep."""
