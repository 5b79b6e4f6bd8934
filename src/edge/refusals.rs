//! Settings that demand what walring cannot do: refused by name, never weakened in silence.
//!
//! A setting that merely permits more than walring does (`gssencmode=prefer`) goes through without, as libpq does against a
//! server that offers no more.

use crate::edge::settings::Settings;
use crate::error::{Error, Result};

/// An option with a closed set of values.
struct Choice {
    keyword: &'static str,
    /// Values that are kept to the letter.
    honoured: &'static [&'static str],
    /// Values that are valid, but demand what is missing.
    refused: &'static [&'static str],
    /// What is missing, as the end of a sentence.
    lacking: &'static str,
}

const CHOICES: &[Choice] = &[
    Choice {
        keyword: "gssencmode",
        honoured: &["disable", "prefer"],
        refused: &["require"],
        lacking: "GSSAPI is not implemented",
    },
    Choice {
        keyword: "min_protocol_version",
        honoured: &["3.0"],
        refused: &["3.2", "latest"],
        lacking: "protocol 3.0 is spoken",
    },
    Choice {
        keyword: "max_protocol_version",
        honoured: &["3.0", "3.2", "latest"],
        refused: &[],
        lacking: "",
    },
];

/// Options that cannot be honoured whatever their value.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("sslkeylogfile", "keys are written to no file"),
    ("scram_client_key", "only a password can be used for SCRAM"),
    ("scram_server_key", "only a password can be used for SCRAM"),
];

/// Fails for the first setting whose value libpq would not accept, or that demands what is missing.
pub fn check(settings: &Settings) -> Result<()> {
    for (keyword, lacking) in UNSUPPORTED {
        if let Some(value) = settings.value(keyword) {
            return Err(refusal(keyword, value, lacking));
        }
    }
    CHOICES.iter().try_for_each(|choice| choice.check(settings))
}

/// The variable by which Debian's wrapper of PostgreSQL's programs chooses among the clusters of a machine.
const CLUSTER: &str = "PGCLUSTER";

/// Fails if that chooses the server, which libpq does not do: the one at the default socket may be another one, and at a
/// first start nothing else would tell.
pub fn check_cluster(settings: &Settings, env: &dyn Fn(&str) -> Option<String>) -> Result<()> {
    let is_named = ["host", "hostaddr", "port"]
        .iter()
        .any(|keyword| settings.value(keyword).is_some());
    match env(CLUSTER).filter(|cluster| !cluster.is_empty() && !is_named) {
        None => Ok(()),
        Some(cluster) => Err(Error::unsupported(format!(
            "environment variable {CLUSTER} (\"{cluster}\") is not supported, and neither host nor port is given"
        ))
        .with_hint("Give the port of that cluster (--port, pg_lsclusters shows it), or unset the variable.")),
    }
}

impl Choice {
    fn check(&self, settings: &Settings) -> Result<()> {
        let keyword = self.keyword;
        match settings.given(keyword) {
            None => Ok(()),
            Some(value) if self.honoured.contains(&value) => Ok(()),
            Some(value) if self.refused.contains(&value) => Err(refusal(keyword, value, self.lacking)),
            Some(value) => Err(Error::usage(format!("invalid {keyword} value: \"{value}\""))),
        }
    }
}

fn refusal(keyword: &str, value: &str, lacking: &str) -> Error {
    // The keys of SCRAM are secrets.
    if keyword.starts_with("scram_") {
        return Error::unsupported(format!("{keyword} is not supported: {lacking}"));
    }
    Error::unsupported(format!("{keyword} value \"{value}\" is not supported: {lacking}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(keyword: &str, value: &str) -> String {
        let mut settings = Settings::default();
        settings.set(keyword, value).unwrap();
        check(&settings).map_or_else(|error| error.to_string(), |()| "honoured".to_owned())
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        for (keyword, value) in [("gssencmode", "require"), ("min_protocol_version", "3.2")] {
            let start = format!("{keyword} value \"{value}\" is not supported: ");
            let verdict = verdict(keyword, value);
            assert!(verdict.starts_with(&start), "{verdict}");
        }
    }

    #[test]
    fn a_cluster_of_debians_wrapper_is_refused_unless_the_server_is_named() {
        let verdict = |pairs: &[(&str, &str)], cluster: &str| {
            let mut settings = Settings::default();
            for (keyword, value) in pairs {
                settings.set(keyword, value).unwrap();
            }
            let env = |name: &str| (name == "PGCLUSTER").then(|| cluster.to_owned());
            check_cluster(&settings, &env).map_err(|error| error.to_string())
        };
        let message = verdict(&[("user", "x")], "15/main").unwrap_err();
        assert!(message.contains("PGCLUSTER (\"15/main\")"), "{message}");
        for named in [("host", "/tmp"), ("hostaddr", "::1"), ("port", "5433")] {
            assert_eq!(verdict(&[named], "15/main"), Ok(()));
        }
        assert_eq!(verdict(&[], ""), Ok(()));
    }

    #[test]
    fn a_refused_key_is_not_shown() {
        let verdict = verdict("scram_client_key", "c2VjcmV0");
        assert_eq!(
            verdict,
            "scram_client_key is not supported: only a password can be used for SCRAM"
        );
    }

    #[test]
    fn what_permits_to_go_without_goes_through() {
        for (keyword, value) in [("gssencmode", "prefer"), ("max_protocol_version", "latest")] {
            assert_eq!(verdict(keyword, value), "honoured", "{keyword}={value}");
        }
    }

    #[test]
    fn a_value_nobody_knows_gets_the_message_of_libpq() {
        assert_eq!(
            verdict("gssencmode", "Require"),
            "invalid gssencmode value: \"Require\""
        );
        let mut settings = Settings::default();
        settings.fill_from(&|name| (name == "PGGSSENCMODE").then(String::new));
        let error = check(&settings).unwrap_err();
        assert_eq!(error.to_string(), "invalid gssencmode value: \"\"");
    }
}
