"""Write records in the formats that people use, and read them back; each file appears whole or not at all."""
