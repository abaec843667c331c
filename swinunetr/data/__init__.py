"""From a JSON list and a folder to checked and preprocessed cases."""
