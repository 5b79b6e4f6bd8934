//! The connection options: their names, their environment variables and the values given for them.
//!
//! Source: PostgreSQL doc libpq.sgml, "Parameter Key Words" and "Environment Variables" (18, and what 19 adds).

use std::collections::BTreeMap;
use std::ffi::OsString;

use crate::error::{Error, Result};

/// Every option libpq knows, and the environment variable that stands in for it. Options that
/// mean nothing to walring are listed too: a connection string that works with libpq must parse.
const OPTIONS: &[(&str, Option<&str>)] = &[
    ("application_name", Some("PGAPPNAME")),
    ("channel_binding", Some("PGCHANNELBINDING")),
    ("client_encoding", Some("PGCLIENTENCODING")),
    ("connect_timeout", Some("PGCONNECT_TIMEOUT")),
    ("dbname", None), // PGDATABASE has no say in a replication connection
    ("fallback_application_name", None),
    ("gssdelegation", Some("PGGSSDELEGATION")),
    ("gssencmode", Some("PGGSSENCMODE")),
    ("gsslib", Some("PGGSSLIB")),
    ("host", Some("PGHOST")),
    ("hostaddr", Some("PGHOSTADDR")),
    ("keepalives", None),
    ("keepalives_count", None),
    ("keepalives_idle", None),
    ("keepalives_interval", None),
    ("krbsrvname", Some("PGKRBSRVNAME")),
    ("load_balance_hosts", Some("PGLOADBALANCEHOSTS")),
    ("max_protocol_version", Some("PGMAXPROTOCOLVERSION")),
    ("min_protocol_version", Some("PGMINPROTOCOLVERSION")),
    ("oauth_ca_file", None),
    ("oauth_client_id", None),
    ("oauth_client_secret", None),
    ("oauth_issuer", None),
    ("oauth_scope", None),
    ("options", Some("PGOPTIONS")),
    ("passfile", Some("PGPASSFILE")),
    ("password", Some("PGPASSWORD")),
    ("port", Some("PGPORT")),
    ("replication", None),
    ("require_auth", Some("PGREQUIREAUTH")),
    ("requirepeer", Some("PGREQUIREPEER")),
    ("scram_client_key", None),
    ("scram_server_key", None),
    ("service", Some("PGSERVICE")),
    ("servicefile", Some("PGSERVICEFILE")),
    ("ssl_max_protocol_version", Some("PGSSLMAXPROTOCOLVERSION")),
    ("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION")),
    ("sslcert", Some("PGSSLCERT")),
    ("sslcertmode", Some("PGSSLCERTMODE")),
    ("sslcompression", Some("PGSSLCOMPRESSION")),
    ("sslcrl", Some("PGSSLCRL")),
    ("sslcrldir", Some("PGSSLCRLDIR")),
    ("sslkey", Some("PGSSLKEY")),
    ("sslkeylogfile", None),
    ("sslmode", Some("PGSSLMODE")),
    ("sslnegotiation", Some("PGSSLNEGOTIATION")),
    ("sslpassword", None),
    ("sslrootcert", Some("PGSSLROOTCERT")),
    ("sslsni", Some("PGSSLSNI")),
    ("target_session_attrs", Some("PGTARGETSESSIONATTRS")),
    ("tcp_user_timeout", None),
    ("user", Some("PGUSER")),
];

/// libpq's old spelling of `sslmode`.
const REQUIRE_SSL: &str = "requiressl";

/// What is read from the environment beside the variables of the options.
const OTHER_VARIABLES: &[&str] = &["PGDATESTYLE", "PGGEQO", "PGREQUIRESSL", "PGSYSCONFDIR", "PGTZ"];

/// Whether a connection string may name the option.
pub fn is_known(keyword: &str) -> bool {
    keyword == REQUIRE_SSL || is_option(keyword)
}

/// Whether libpq has the option under this name today; only a connection string may use an old one.
pub fn is_option(keyword: &str) -> bool {
    option(keyword).is_some()
}

fn option(keyword: &str) -> Option<&'static str> {
    let mut keywords = OPTIONS.iter().map(|(name, _)| *name);
    keywords.find(|name| *name == keyword)
}

/// An option and its value as they are called today: `requiressl` became `sslmode`.
pub fn in_todays_words<'a>(keyword: &'a str, value: &'a str) -> (&'a str, &'a str) {
    match (keyword, value.starts_with('1')) {
        (REQUIRE_SSL, true) => ("sslmode", "require"),
        (REQUIRE_SSL, false) => ("sslmode", "prefer"),
        _ => (keyword, value),
    }
}

/// Fails for a variable that concerns a connection and is not UTF-8: to leave it out would be to connect otherwise
/// than the operator says.
pub fn check_environment(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<()> {
    let of_options = OPTIONS.iter().filter_map(|(_, variable)| *variable);
    let ours: Vec<&str> = of_options.chain(OTHER_VARIABLES.iter().copied()).collect();
    for (name, value) in variables {
        if value.to_str().is_some() || !ours.iter().any(|variable| name == *variable) {
            continue;
        }
        let error = Error::usage(format!(
            "environment variable \"{}\" is not valid UTF-8",
            name.display()
        ));
        return Err(match name == "PGPASSWORD" {
            true => error.with_hint("A password file may hold any bytes."),
            false => error,
        });
    }
    Ok(())
}

/// The names of all options.
pub fn keywords() -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().map(|(keyword, _)| *keyword)
}

/// The environment variable that stands in for an option, if there is one.
pub fn variable(keyword: &str) -> Option<&'static str> {
    let found = OPTIONS.iter().find(|(name, _)| *name == keyword);
    found.and_then(|(_, variable)| *variable)
}

/// Whether the option's value is not to be shown.
pub fn is_secret(keyword: &str) -> bool {
    matches!(
        keyword,
        "password" | "sslpassword" | "oauth_client_secret" | "scram_client_key" | "scram_server_key"
    )
}

/// libpq's words for an option that it does not know.
pub fn unknown(keyword: &str) -> String {
    format!("invalid connection option \"{keyword}\"")
}

/// The values given for connection options, in the order of precedence they were set in.
///
/// Has no `Debug`: one of the values may be a password.
#[derive(Default)]
pub struct Settings {
    values: BTreeMap<&'static str, String>,
}

impl Settings {
    /// Sets an option; a later value replaces an earlier one, and an empty one says nothing.
    ///
    /// Fails for a keyword libpq does not know.
    pub fn set(&mut self, keyword: &str, value: &str) -> Result<()> {
        let (keyword, value) = in_todays_words(keyword, value);
        let keyword = option(keyword).ok_or_else(|| Error::usage(unknown(keyword)))?;
        if !value.is_empty() {
            self.values.insert(keyword, value.to_owned());
        }
        Ok(())
    }

    /// Sets an option that is not set yet; an empty value stands in the way of later ones, and is as good as the
    /// default or wrong, as the option has it. False for a keyword libpq does not know.
    pub fn fill(&mut self, keyword: &str, value: &str) -> bool {
        let Some(keyword) = option(keyword) else {
            return false;
        };
        self.values.entry(keyword).or_insert_with(|| value.to_owned());
        true
    }

    /// Fills what is not set yet from the environment.
    pub fn fill_from(&mut self, env: &dyn Fn(&str) -> Option<String>) {
        for (keyword, variable) in OPTIONS {
            if let Some(value) = variable.and_then(env) {
                self.fill(keyword, &value);
            }
        }
        if env("PGREQUIRESSL").is_some_and(|value| value.starts_with('1')) {
            self.fill("sslmode", "require");
        }
    }

    /// What an option was given, even if that is nothing.
    pub fn given(&self, keyword: &str) -> Option<&str> {
        self.values.get(keyword).map(String::as_str)
    }

    /// The value of an option; never empty.
    pub fn value(&self, keyword: &str) -> Option<&str> {
        self.given(keyword).filter(|value| !value.is_empty())
    }

    /// The value of an option that is a whole number, as libpq reads it: blanks around it are
    /// allowed. Fails with libpq's message if it is none or does not fit 32 bits.
    pub fn integer(&self, keyword: &str) -> Result<Option<i32>> {
        self.given(keyword)
            .map(|text| parse_integer(keyword, text))
            .transpose()
    }
}

/// A whole number given for the option `keyword`; the error is libpq's.
pub fn parse_integer(keyword: &str, text: &str) -> Result<i32> {
    text.trim().parse().map_err(|_| {
        Error::usage(format!(
            "invalid integer value \"{text}\" for connection option \"{keyword}\""
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_keyword_gets_the_message_of_libpq() {
        let error = Settings::default().set("foo", "1").unwrap_err();
        assert_eq!(error.to_string(), "invalid connection option \"foo\"");
    }

    #[test]
    fn the_last_value_wins_and_an_empty_one_says_nothing() {
        let mut settings = Settings::default();
        for value in ["a", "b", ""] {
            settings.set("host", value).unwrap();
        }
        assert_eq!(settings.value("host"), Some("b"));
        settings.fill_from(&|name| (name == "PGHOST").then(|| "c".to_owned()));
        assert_eq!(settings.value("host"), Some("b"));
    }

    #[test]
    fn an_empty_value_that_stands_keeps_out_later_ones() {
        let mut settings = Settings::default();
        assert!(settings.fill("host", ""));
        settings.fill_from(&|name| ["PGHOST", "PGUSER"].contains(&name).then(String::new));
        assert_eq!((settings.given("host"), settings.value("host")), (Some(""), None));
        assert_eq!((settings.given("user"), settings.value("user")), (Some(""), None));
        assert_eq!(settings.given("port"), None);
        assert!(!settings.fill("requiressl", "1") && !settings.fill("foo", "1"));
    }

    #[test]
    fn a_variable_that_is_not_text_is_refused_if_it_is_ours() {
        use std::os::unix::ffi::OsStringExt;
        let check = |name: &str, value: &[u8]| {
            let variable = (name.into(), OsString::from_vec(value.to_vec()));
            check_environment([variable].into_iter()).map_err(|error| format!("{error:?}"))
        };
        for (name, value) in [
            ("PGHOST", &b"\xc3\xa9"[..]),
            ("HOSTNAME", b"\xff"),
            ("PGDATA", b"\xff"),
        ] {
            assert_eq!(check(name, value), Ok(()));
        }
        for name in [
            "PGPASSWORD",
            "PGSSLMODE",
            "PGREQUIRESSL",
            "PGSERVICEFILE",
            "PGSYSCONFDIR",
        ] {
            let message = check(name, b"a\xff").unwrap_err();
            assert!(
                message.contains(&format!("environment variable \"{name}\" is not valid UTF-8")),
                "{message}"
            );
        }
    }

    #[test]
    fn whole_numbers_are_read_as_libpq_reads_them() {
        let mut settings = Settings::default();
        settings.set("connect_timeout", " 10 ").unwrap();
        assert_eq!(settings.integer("connect_timeout").unwrap(), Some(10));
        for bad in ["abc", "1x", "99999999999", "1 2"] {
            settings.set("port", bad).unwrap();
            let message = settings.integer("port").unwrap_err().to_string();
            assert_eq!(
                message,
                format!("invalid integer value \"{bad}\" for connection option \"port\"")
            );
        }
    }

    #[test]
    fn the_old_ways_to_demand_tls_still_demand_it() {
        let mut settings = Settings::default();
        settings.set("requiressl", "1").unwrap();
        assert_eq!(settings.value("sslmode"), Some("require"));
        let mut settings = Settings::default();
        settings.fill_from(&|name| (name == "PGREQUIRESSL").then(|| "1".to_owned()));
        assert_eq!(settings.value("sslmode"), Some("require"));
    }
}
