//! Whether a connection is encrypted, and when it is given up: walring decides as libpq does, case by case.
mod common;

use std::path::Path;

use common::attempt::{Attempt, Client, Comparison};
use common::certificates::{file, path};
use common::tls::{present, server_with_tls, server_without_tls};
use common::{Server, ServerOptions, tls};

/// Not to give any is to prefer.
const MODES: [&str; 7] = [
    "",
    "sslmode=disable",
    "sslmode=allow",
    "sslmode=prefer",
    "sslmode=require",
    "sslmode=verify-ca",
    "sslmode=verify-full",
];

/// Roles that are let in with TLS only, without it only, and both ways.
const ROLES: [&str; 3] = ["encrypted", "plain", "either"];

/// Every mode with every kind of role and every root certificate.
fn compare_modes(server: &Server) {
    let mut comparison = Comparison::on(server);
    let roots =
        ["root.crt", "other-root.crt", "nonsense.crt"].map(|name| format!("sslrootcert={}", file(name)));
    let absent = ["".to_owned(), "sslrootcert=/nonexistent/root.crt".to_owned()];
    for root in roots.iter().chain(&absent) {
        for mode in MODES {
            for role in ROLES {
                comparison.compare(&Attempt::with(format!("user={role} {mode} {root}")));
            }
        }
    }
    comparison.finish();
}

#[test]
fn every_mode_meets_a_server_with_tls() {
    compare_modes(&server_with_tls());
}

#[test]
fn every_mode_meets_a_server_without_tls() {
    compare_modes(&server_without_tls());
}

#[test]
fn a_preference_is_what_it_seems() {
    let server = server_with_tls();
    let mut comparison = Comparison::on(&server);
    let encrypted = |role: &str| {
        format!("replication connection authorized: user={role} application_name=attempt SSL enabled")
    };
    for (settings, tls) in [
        ("user=either", true),
        ("user=either sslmode=allow", false),
        ("user=encrypted sslmode=allow", true),
        ("user=plain sslmode=prefer", false),
        ("user=either sslmode=disable", false),
    ] {
        let outcome = comparison.compare(&Attempt::with(settings).succeeds());
        let role = settings["user=".len()..].split(' ').next().expect("a role");
        let seen = outcome.seen.iter().any(|line| line.starts_with(&encrypted(role)));
        assert_eq!(seen, tls, "{settings}: {outcome:#?}");
    }
    comparison.compare(&Attempt::with("user=plain sslmode=require").fails());
    comparison.finish();
}

#[test]
fn a_preference_for_tls_gives_way_to_nothing_else_when_it_fails() {
    let server = server_with_tls();
    let mut comparison = Comparison::on(&server);
    let other = format!("sslrootcert={}", file("other-root.crt"));
    for mode in ["prefer", "allow"] {
        for role in ROLES {
            comparison.compare(&Attempt::with(format!("user={role} sslmode={mode} {other}")));
            let versions = "ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.3";
            comparison.compare(&Attempt::with(format!("user={role} sslmode={mode} {versions}")));
        }
    }
    comparison.finish();
}

#[test]
fn where_libpq_is_encrypted_walring_is_never_in_plain() {
    let server = server_with_tls();
    let home = tempfile::tempdir().expect("create a directory");
    let meet = |what: &str, settings: &str, reason: &str| {
        for mode in ["", "sslmode=prefer"] {
            let attempt = Attempt::with(format!("user=either {mode} {settings}"));
            // The distribution's, with the OpenSSL that operators have.
            let theirs = Client::Libpq(None).attempt(&server, home.path(), &attempt);
            let is_encrypted = theirs.seen.iter().any(|line| line.contains("SSL enabled"));
            assert!(theirs.connected && is_encrypted, "{what}: {theirs:#?}");
            let before = server.log().len();
            let exit = Client::Walring.meet(server.port(), &attempt);
            let said = exit.stderr.join("\n");
            assert_eq!(exit.code, Some(1), "{what}: {said}");
            assert!(said.contains(reason), "{what}: {said}");
            assert!(
                said.contains("sslmode=prefer does not lead to plain text"),
                "{what}: {said}"
            );
            let log = server.log()[before..].to_owned();
            assert!(!log.contains("connection authorized"), "{what}: {log}");
        }
    };
    let shows = |name: &str| {
        format!(
            "sslcert={} sslkey={}",
            file(&format!("{name}.crt")),
            file(&format!("{name}.key"))
        )
    };
    meet("a client's key", &shows("client-p521"), "P-521");
    present(&server, "server-p521");
    meet("a server's key", "", "P-384");
    present(&server, "server-long-number");
    meet("a certificate", "", "could not read the server's certificate");
    present(&server, "server-rsa");
    for (what, config) in [
        ("no ephemeral keys", "ssl_ciphers = 'AES256-GCM-SHA384'"),
        (
            "no authenticating ciphers",
            "ssl_ciphers = 'ECDHE-RSA-AES256-SHA384'",
        ),
        (
            "a group",
            "ssl_ciphers = 'HIGH'\nssl_max_protocol_version = ''\nssl_ecdh_curve = 'secp521r1'",
        ),
    ] {
        server.append_config(&format!("ssl_max_protocol_version = 'TLSv1.2'\n{config}\n"));
        server.reload();
        meet(what, "", "X25519");
    }
}

#[test]
fn plain_text_that_is_allowed_and_not_expected_is_told() {
    let server = server_with_tls();
    let other = format!("sslrootcert={}", file("other-root.crt"));
    for (settings, reason) in [
        (format!("user=either {other}"), "certificate verify failed"),
        ("user=plain".to_owned(), "no pg_hba.conf entry"),
    ] {
        let exit = Client::Walring.meet(server.port(), &Attempt::with(&settings));
        let warnings: Vec<_> = exit
            .stderr
            .iter()
            .filter(|line| line.contains("warning: "))
            .collect();
        assert_eq!((exit.code, warnings.len()), (Some(0), 1), "{settings}: {exit:?}");
        assert!(
            warnings[0].contains("going on without encryption") && warnings[0].contains(reason),
            "{settings}: {exit:?}"
        );
    }
    // There plain text is all that is expected.
    for (server, settings) in [
        (&server, "user=either sslmode=disable"),
        (&server, "user=either sslmode=allow"),
        (&server, "user=encrypted sslmode=allow"),
        (&server, "user=either"),
        (&server_without_tls(), "user=either"),
    ] {
        let exit = Client::Walring.meet(server.port(), &Attempt::with(settings));
        assert_eq!(exit.code, Some(0), "{settings}: {exit:?}");
        assert!(
            !exit.stderr.concat().contains("warning: "),
            "{settings}: {exit:?}"
        );
    }
}

#[test]
fn values_are_checked_before_anybody_is_asked() {
    let server = server_with_tls();
    let mut comparison = Comparison::on(&server);
    for settings in [
        "sslmode=on",
        "sslmode=VERIFY-FULL",
        "sslmode='verify-full '",
        "sslnegotiation=indirect",
        "sslnegotiation=direct sslmode=prefer",
        "sslnegotiation=direct sslmode=allow",
        "sslnegotiation=direct sslmode=disable",
        "sslcertmode=maybe",
        "channel_binding=yes",
        "sslrootcert=system sslmode=require",
        "sslrootcert=system sslmode=verify-ca",
        "sslrootcert=system sslmode=prefer",
        "sslrootcert=system sslmode=disable",
        "ssl_min_protocol_version=TLSv2",
        "ssl_min_protocol_version=1.2",
        "ssl_max_protocol_version=SSLv3",
        "ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2",
        "ssl_min_protocol_version=tlsv1.3 ssl_max_protocol_version=TLSV1.2",
        "sslmode=disable ssl_min_protocol_version=TLSv2",
        "gssencmode=maybe",
    ] {
        comparison.compare(&Attempt::with(format!("user=either {settings}")).fails());
    }
    comparison.finish();
}

#[test]
fn the_version_is_in_the_range_that_is_given() {
    let server = server_with_tls();
    let mut comparison = Comparison::on(&server);
    let versions = ["", "TLSv1.2", "tlsv1.2", "TLSv1.3"];
    for min in versions {
        for max in versions {
            let range = format!("ssl_min_protocol_version='{min}' ssl_max_protocol_version='{max}'");
            comparison.compare(&Attempt::with(format!("user=encrypted sslmode=require {range}")));
        }
    }
    for (config, settings) in [
        (
            "ssl_max_protocol_version = 'TLSv1.2'",
            "ssl_min_protocol_version=TLSv1.3",
        ),
        ("ssl_max_protocol_version = 'TLSv1.2'", ""),
        ("ssl_max_protocol_version = ''", ""),
        (
            "ssl_min_protocol_version = 'TLSv1.3'",
            "ssl_max_protocol_version=TLSv1.2",
        ),
        ("ssl_min_protocol_version = 'TLSv1.3'", ""),
    ] {
        server.append_config(&format!("{config}\n"));
        server.reload();
        for role in ["encrypted", "either"] {
            for mode in ["require", "prefer"] {
                let settings = format!("user={role} sslmode={mode} {settings}");
                comparison.compare_as(config, &Attempt::with(settings));
            }
        }
    }
    comparison.finish();
}

#[test]
fn every_setting_has_its_variable() {
    let server = server_with_tls();
    let mut comparison = Comparison::on(&server);
    let either = || Attempt::with("user=either");
    let root = file("root.crt");
    for mode in [
        "disable",
        "allow",
        "prefer",
        "require",
        "verify-ca",
        "verify-full",
        "nonsense",
    ] {
        comparison.compare(&either().env("PGSSLMODE", mode));
        comparison.compare(&either().env("PGSSLMODE", mode).env("PGSSLROOTCERT", &*root));
    }
    comparison.compare(
        &Attempt::with("user=either sslmode=disable")
            .env("PGSSLMODE", "require")
            .succeeds(),
    );
    comparison.compare(&Attempt::with("user=plain").env("PGREQUIRESSL", "1").fails());
    comparison.compare(&Attempt::with("user=plain").env("PGREQUIRESSL", "0").succeeds());
    comparison.compare(&Attempt::with("user=plain requiressl=1").fails());
    comparison.compare(&either().env("PGSSLMINPROTOCOLVERSION", "TLSv1.3").succeeds());
    comparison.compare(&either().env("PGSSLMAXPROTOCOLVERSION", "TLSv1.2").succeeds());
    comparison.compare(&either().env("PGSSLMAXPROTOCOLVERSION", "nonsense").fails());
    comparison.compare(&either().env("PGSSLNEGOTIATION", "nonsense").fails());
    comparison.compare(&either().env("PGSSLCERTMODE", "nonsense").fails());
    comparison.compare(
        &either()
            .env("PGSSLCERTMODE", "require")
            .env("PGSSLMODE", "require"),
    );
    comparison.compare(
        &either()
            .env("PGSSLSNI", "0")
            .env("PGSSLMODE", "require")
            .succeeds(),
    );
    comparison.compare(&either().env("PGSSLCOMPRESSION", "1").succeeds());
    let client = || {
        let attempt =
            Attempt::with("user=certified sslmode=require").env("PGSSLCERT", file("client-good.crt"));
        attempt.env("PGSSLKEY", file("client-good.key"))
    };
    comparison.compare(&client().succeeds());
    let verified = |name: &str| client().env("PGSSLROOTCERT", &*root).env("PGSSLCRL", file(name));
    comparison.compare(&verified("root.crl").succeeds());
    present(&server, "server-revoked");
    comparison.compare(&verified("root.crl").fails());
    let directory = client()
        .env("PGSSLROOTCERT", &*root)
        .env("PGSSLCRLDIR", file("root.crl.d"));
    comparison.compare(&directory.fails());
    comparison.finish();
}

#[test]
fn a_unix_socket_is_never_encrypted() {
    let server = server_with_tls();
    let mut comparison = Comparison::on(&server);
    for mode in MODES {
        let attempt = Attempt::with(format!("user=postgres {mode}")).on_socket();
        comparison.compare(&attempt.succeeds());
        let root = format!("user=postgres {mode} sslrootcert={}", file("root.crt"));
        comparison.compare(&Attempt::with(root).on_socket());
    }
    comparison.compare(&Attempt::with("user=postgres sslnegotiation=direct sslmode=require").on_socket());
    comparison.compare(
        &Attempt::with("user=postgres channel_binding=require")
            .on_socket()
            .fails(),
    );
    comparison.compare(&Attempt::with("user=postgres sslcertmode=require").on_socket());
    comparison.finish();
}

// ---- the files in the home directory ----

/// Puts a file where libpq looks for it.
fn at_home(home: &Path, name: &str, source: &str) {
    let directory = home.join(".postgresql");
    std::fs::create_dir_all(&directory).expect("create a directory");
    std::fs::copy(path(source), directory.join(name)).expect("copy a certificate");
}

#[test]
fn files_in_the_home_directory_are_used() {
    let server = server_with_tls();
    let mut comparison = Comparison::on(&server);
    let home = comparison.home().to_owned();
    let compare_all = |comparison: &mut Comparison, what: &str| {
        for role in ["certified", "encrypted", "either"] {
            for mode in MODES {
                comparison.compare_as(what, &Attempt::with(format!("user={role} {mode}")));
            }
        }
    };
    at_home(&home, "root.crt", "root.crt");
    compare_all(&mut comparison, "a root");
    at_home(&home, "postgresql.crt", "client-good.crt");
    compare_all(&mut comparison, "a certificate without its key");
    at_home(&home, "postgresql.key", "client-good.key");
    compare_all(&mut comparison, "a certificate with its key");
    at_home(&home, "root.crl", "root.crl");
    compare_all(&mut comparison, "a list that does not name the server");
    present(&server, "server-revoked");
    compare_all(&mut comparison, "a list that names the server");
    at_home(&home, "root.crl", "nonsense.crt");
    compare_all(&mut comparison, "a list that is none");
    at_home(&home, "root.crt", "other-root.crt");
    compare_all(&mut comparison, "another root");
    comparison.compare(&Attempt::with(
        "user=certified sslmode=require sslcertmode=disable",
    ));
    comparison.finish();
}

#[test]
fn the_home_directory_is_the_variables_or_else_the_users() {
    let server = server_with_tls();
    let mut comparison = Comparison::on(&server);
    let other = tempfile::tempdir().expect("create a directory");
    at_home(other.path(), "root.crt", "other-root.crt");
    let elsewhere = other.path().display().to_string();
    let attempt = || Attempt::with("user=either sslmode=require");
    comparison.compare(&attempt().env("HOME", elsewhere).fails());
    comparison.compare(&attempt().env("HOME", "").succeeds());
    comparison.compare(&attempt().env("HOME", "/nonexistent").succeeds());
    comparison.finish();
}

// ---- TLS at once ----

#[test]
fn tls_can_begin_at_once_where_the_server_knows_that() {
    let Some(installation) = common::Installation::version(17) else {
        return;
    };
    let server = tls::start(tls::with_tls(ServerOptions::default().version(&installation)));
    let mut comparison = Comparison::on(&server);
    let root = format!("sslrootcert={}", file("root.crt"));
    for role in ROLES {
        for mode in ["require", "verify-ca", "verify-full"] {
            let direct = format!("user={role} sslmode={mode} sslnegotiation=direct");
            comparison.compare(&Attempt::with(&direct));
            comparison.compare(&Attempt::with(format!("{direct} {root}")));
        }
    }
    let direct = || Attempt::with("user=either sslmode=require").env("PGSSLNEGOTIATION", "direct");
    comparison.compare(&direct().succeeds());
    server.append_config("ssl = off\n");
    server.reload();
    comparison.compare(&direct().fails());
    comparison.finish();
}

#[test]
fn tls_at_once_fails_on_a_server_that_does_not_know_it() {
    for server in [server_with_tls(), server_without_tls()] {
        let mut comparison = Comparison::on(&server);
        if comparison.is_new() {
            comparison.compare(&Attempt::with("user=either sslmode=require sslnegotiation=direct").fails());
            comparison.finish();
        }
    }
}
