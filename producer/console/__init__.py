"""How things are shown: tables, progress, languages, names of files."""
