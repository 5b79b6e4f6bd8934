//! `require_auth`: which ways to authenticate the operator lets the server choose.

use crate::error::{Error, Result};

/// A way to authenticate, as `require_auth` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The password itself, in plain.
    Password,
    /// The password hashed by MD5.
    Md5,
    /// Kerberos by way of GSSAPI.
    Gss,
    /// Kerberos by way of SSPI.
    Sspi,
    /// A proof of knowing the password, from both sides.
    ScramSha256,
    /// A bearer token.
    Oauth,
    /// The server asks for nothing.
    None,
}

const METHODS: [(&str, Method); 7] = [
    ("password", Method::Password),
    ("md5", Method::Md5),
    ("gss", Method::Gss),
    ("sspi", Method::Sspi),
    ("scram-sha-256", Method::ScramSha256),
    ("oauth", Method::Oauth),
    ("none", Method::None),
];

/// The value of `require_auth`: nothing, a list of methods to allow, or one of methods to exclude.
#[derive(Debug, Clone, Default)]
pub struct RequireAuth {
    text: String,
    allowed: Option<Vec<Method>>,
}

impl RequireAuth {
    /// Parses a comma list of methods, all or none of them with a `!`; errors are libpq's.
    pub fn parse(text: &str) -> Result<RequireAuth> {
        let mut named = Vec::new();
        let excludes = text.starts_with('!');
        for item in text.split(',') {
            let name = match (excludes, item.strip_prefix('!')) {
                (true, Some(name)) => name,
                (false, None) => item,
                (true, None) => return Err(mixed("require_auth", item, "negative")),
                (false, Some(_)) => return Err(mixed("negative require_auth", item, "non-negative")),
            };
            let method = METHODS
                .iter()
                .find(|(known, _)| *known == name)
                .ok_or_else(|| Error::usage(format!("invalid require_auth value: \"{item}\"")))?
                .1;
            if named.contains(&method) {
                return Err(Error::usage(format!(
                    "require_auth method \"{item}\" is specified more than once"
                )));
            }
            named.push(method);
        }
        let allowed = METHODS
            .iter()
            .map(|(_, method)| *method)
            .filter(|method| named.contains(method) != excludes)
            .collect();
        Ok(RequireAuth {
            text: text.to_owned(),
            allowed: Some(allowed),
        })
    }

    /// Fails if the operator does not allow `method`; `reason` says what the server did.
    pub fn check(&self, method: Method, reason: &str) -> Result<()> {
        match &self.allowed {
            Some(allowed) if !allowed.contains(&method) => Err(Error::connection(format!(
                "authentication method requirement \"{}\" failed: {reason}",
                self.text
            ))),
            _ => Ok(()),
        }
    }
}

fn mixed(what: &str, item: &str, others: &str) -> Error {
    Error::usage(format!(
        "{what} method \"{item}\" cannot be mixed with {others} methods"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(text: &str) -> Vec<Method> {
        let require = RequireAuth::parse(text).unwrap();
        let methods = METHODS.iter().map(|(_, method)| *method);
        methods
            .filter(|method| require.check(*method, "").is_ok())
            .collect()
    }

    #[test]
    fn a_list_allows_what_it_names_and_a_negated_one_the_rest() {
        assert_eq!(allowed("scram-sha-256"), [Method::ScramSha256]);
        assert_eq!(allowed("md5,none"), [Method::Md5, Method::None]);
        assert_eq!(
            allowed("!password,!md5,!none"),
            [Method::Gss, Method::Sspi, Method::ScramSha256, Method::Oauth]
        );
        assert!(RequireAuth::default().check(Method::None, "").is_ok());
    }

    #[test]
    fn lists_that_make_no_sense_are_refused_as_libpq_does() {
        for (text, message) in [
            ("foo", "invalid require_auth value: \"foo\""),
            ("md5,", "invalid require_auth value: \"\""),
            (
                "md5,!none",
                "negative require_auth method \"!none\" cannot be mixed with non-negative methods",
            ),
            (
                "!md5,none",
                "require_auth method \"none\" cannot be mixed with negative methods",
            ),
            (
                "md5,md5",
                "require_auth method \"md5\" is specified more than once",
            ),
        ] {
            assert_eq!(RequireAuth::parse(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_failed_requirement_says_what_the_server_did() {
        let require = RequireAuth::parse("scram-sha-256").unwrap();
        let error = require
            .check(Method::Md5, "server requested a hashed password")
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "authentication method requirement \"scram-sha-256\" failed: server requested a hashed password"
        );
    }
}
