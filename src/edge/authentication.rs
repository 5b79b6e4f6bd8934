//! Answers to the server's authentication requests.
