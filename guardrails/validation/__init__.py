"""VALIDATE: is this a row the model was trained to read? (`guard`)."""
