"""The HTTP edge: reads requests, writes answers, knows no policy and no SQL."""
