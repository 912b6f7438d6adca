"""What lies on a disk: records, locks, and whatever comes from outside."""
