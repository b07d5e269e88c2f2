"""What does each word of `cfbridge …` do? One module per family, imported only when its word is said."""
