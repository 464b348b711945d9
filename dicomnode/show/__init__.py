"""Results for people: pictures, plain numbers, folders."""
