//! TLS up to the end of the handshake: what the operator asks for, the files, who the server is. What follows is the
//! ring's ([`crate::ring::tls`]).
//!
//! The rules are libpq's, the handshake is rustls's. Files are read for every connection anew, so that certificates can
//! be exchanged while walring runs.
//!
//! [`settings`] reads the connection options, [`files`] certificates and revocation lists, [`key`] the private key (`key_kind`
//! knows which can be used), `chain` what leads from our certificate to a root;
//! [`verifier`] and [`names`] decide whether the server is the right one, with what `trust` has of roots, `purpose` knows of
//! certificates and `revocation` of lists; [`handshake`] goes through it, and `binding` is what it
//! leaves for the password. [`failure`] is what keeps the difference to OpenSSL from leading to plain text.

mod binding;
mod chain;
pub mod failure;
pub mod files;
pub mod handshake;
pub mod key;
mod key_kind;
pub mod names;
mod purpose;
mod revocation;
mod revocation_list;
pub mod settings;
mod signature;
mod trust;
pub mod verifier;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
