//! Who listens: handshakes within bounds, and each connection on one of a few threads of its own.
