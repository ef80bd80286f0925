"""What any Textway service is built with: technical code without a word of the business in it."""
