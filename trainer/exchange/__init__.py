"""What two roles of a run give each other: small messages over a socket, tensors through memory that both see."""
