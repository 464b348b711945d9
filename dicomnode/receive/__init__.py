"""Take what peers send: who may, what is kept, what is answered."""
