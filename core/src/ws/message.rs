//! Messages from frames (RFC 6455 sections 5.4 to 5.6, 8.1).
