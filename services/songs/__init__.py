"""Songs: scores, rankings, exploration."""
