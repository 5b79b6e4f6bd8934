//! Connection strings and environment.
