//! Why a connection is not encrypted, and whether it would have been with libpq.

use crate::error::Error;

/// Why there is no encrypted connection.
#[derive(Debug)]
pub struct Failure {
    /// What is said of it.
    pub error: Error,
    /// Whether libpq would have gone on, as far as can be known. What it would have said under TLS must not be said in plain
    /// text here.
    pub is_ours_alone: bool,
}

/// The result of what leads to an encrypted connection.
pub type Outcome<T> = std::result::Result<T, Failure>;

impl Failure {
    /// One at which libpq would have gone on.
    pub fn of_ours_alone(error: Error) -> Failure {
        Failure {
            error,
            is_ours_alone: true,
        }
    }
}

impl From<Error> for Failure {
    /// What libpq meets, too, unless it is something that walring does not support.
    fn from(error: Error) -> Failure {
        Failure {
            is_ours_alone: !error.is_retryable(),
            error,
        }
    }
}
