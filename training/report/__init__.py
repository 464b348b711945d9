"""The report folder of a comparison: tables, pictures, and the page that shows them."""
