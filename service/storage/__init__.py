"""Tables, queries and files: the only code that speaks SQL, and it never imports torch."""
