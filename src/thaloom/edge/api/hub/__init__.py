"""A hub of our own: what is in the store, in the words of Hugging Face's hub, so that its clients pull from here."""
