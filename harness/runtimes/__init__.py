"""Where stages run. Each runtime knows how to wait for its device; none of them reads a clock."""
