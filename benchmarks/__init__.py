"""How fast tonnage starts, sizes and searches, judged against stated goals."""
