//! Whose certificate a server may show: names, chains, times, keys and revocation lists, judged as libpq judges them.
mod common;

use common::attempt::{Attempt, Client, Comparison};
use common::certificates::file;
use common::tls::{present, server_with_tls};
use common::{Installation, Server, ServerOptions, certificates, tls};

/// The certificates that are special for the names in them.
const NAMED: [&str; 24] = [
    "server-documented",
    "server-common-name",
    "server-name",
    "server-names",
    "server-wildcard",
    "server-wildcard-common-name",
    "server-star",
    "server-partial-wildcard",
    "server-inner-wildcard",
    "server-address",
    "server-addresses",
    "server-other-address",
    "server-address-as-name",
    "server-address-as-common-name",
    "server-address-beside-name",
    "server-name-beside-address",
    "server-localhost",
    "server-mail",
    "server-without-name",
    "server-other-name",
    "server-zero-in-name",
    "server-address-of-three-bytes",
    "server-constrained",
    "server-unconstrained",
];

/// Names under which the server is looked for, all at its one address.
const HOSTS: [&str; 16] = [
    "host=db.example.test",
    "host=DB.Example.TEST",
    "host=db.example.test.",
    "host=other.test",
    "host=three.test",
    "host=example.test",
    "host=very.deep.example.test",
    "host=.example.test",
    "host=*.example.test",
    "host=db.constrained.test",
    "host=localhost",
    "host=127.0.0.1",
    "host=127.1",
    "host=::1",
    "host=10.0.0.1",
    "host=''",
];

/// TLS with a proof of who the server is, by the root's word.
fn verified(mode: &str, root: &str) -> String {
    format!("user=encrypted sslmode={mode} sslrootcert={}", file(root))
}

/// With the distribution's libpq, whose OpenSSL is the one that operators have.
fn comparison(server: &Server) -> Comparison<'_> {
    Comparison::with(server, Client::Libpq(None))
}

#[test]
fn names_are_compared_as_libpq_does() {
    let server = server_with_tls();
    let mut comparison = comparison(&server);
    let mut accepted = 0;
    for certificate in NAMED {
        present(&server, certificate);
        for host in HOSTS {
            if certificate == "server-unconstrained" && host == "host=''" {
                // Two reasons to fail, of which walring finds the other first.
                continue;
            }
            let settings = format!("{} {host}", verified("verify-full", "root.crt"));
            let outcome = comparison.compare_as(certificate, &Attempt::with(settings));
            accepted += u32::from(outcome.connected);
        }
    }
    assert!(
        accepted >= 30,
        "libpq accepts {accepted} only: the names do not show what they are to show"
    );
    comparison.finish();
}

#[test]
fn a_name_matters_to_nobody_but_verify_full() {
    let server = server_with_tls();
    let mut comparison = comparison(&server);
    for certificate in ["server-other-name", "server-without-name", "server-zero-in-name"] {
        present(&server, certificate);
        for mode in ["prefer", "require", "verify-ca"] {
            let attempt = Attempt::with(verified(mode, "root.crt")).succeeds();
            comparison.compare_as(certificate, &attempt);
        }
    }
    comparison.finish();
}

/// The certificates that are special for something else than their names.
const MADE: [&str; 26] = [
    "server-rsa",
    "server-ed25519",
    "server-p384",
    "server-sha384",
    "server-sha512",
    "server-pss",
    "server-expired",
    "server-early",
    "server-for-clients",
    "server-for-servers",
    "server-critical",
    "server-without-chain",
    "server-chain",
    "server-chain-with-root",
    "server-long-chain",
    "server-constrained",
    "server-unconstrained",
    "server-impostor",
    "server-of-other-root",
    "server-of-server",
    "server-self-signed",
    "server-snakeoil",
    "server-documented",
    "server-revoked",
    "server-chain-revoked",
    "server-localhost",
];

/// Files of root certificates; those of servers are their own roots.
const ROOTS: [&str; 12] = [
    "root.crt",
    "other-root.crt",
    "both-roots.crt",
    "root-and-intermediate.crt",
    "intermediate.crt",
    "impostor.crt",
    "root-with-words.crt",
    "root-twice.crt",
    "torn.crt",
    "nonsense.crt",
    "empty.crt",
    "client-good-both.key",
];

#[test]
fn chains_are_built_as_openssl_does() {
    let server = server_with_tls();
    let mut comparison = comparison(&server);
    let mut accepted = 0;
    for certificate in MADE {
        present(&server, certificate);
        let own = format!("{certificate}.crt");
        for root in ROOTS.iter().copied().chain([&*own]) {
            let attempt = Attempt::with(verified("verify-ca", root));
            accepted += u32::from(comparison.compare_as(certificate, &attempt).connected);
        }
    }
    assert!(accepted >= 50, "libpq accepts {accepted} only");
    comparison.finish();
}

/// Roots that say what they are for, or when, and the certificates that are to show what is made of it.
const PECULIAR: [(&str, &[&str]); 19] = [
    (
        "root-no-authority",
        &["server-of-root-no-authority", "root-no-authority"],
    ),
    ("root-silent", &["server-of-root-silent"]),
    ("root-by-usage", &["server-of-root-by-usage"]),
    ("root-other-usage", &["server-of-root-other-usage"]),
    ("root-for-clients", &["server-of-root-for-clients"]),
    ("root-for-servers", &["server-of-root-for-servers"]),
    ("root-early", &["server-of-root-early"]),
    ("root-expired", &["server-of-root-renewed"]),
    ("root-renewed", &["server-of-root-renewed"]),
    ("root-expired-and-renewed", &["server-of-root-renewed"]),
    ("root-renewed-and-expired", &["server-of-root-renewed"]),
    ("root-short", &["server-of-root-short", "server-below-short"]),
    (
        "root-constrained",
        &[
            "server-of-root-constrained",
            "server-constrained-common-name",
            "server-constrained-authority",
            "server-constrained-by-root",
        ],
    ),
    ("root-first-version", &["server-of-root-first-version"]),
    ("root-rolled", &["server-of-root-rolled", "server-rolled-chain"]),
    ("other-root", &["server-of-root-rolled", "server-rolled-chain"]),
    (
        "root",
        &[
            "server-below-other-usage",
            "server-below-signer",
            "server-below-first-version",
            "server-unconstrained-common-name",
        ],
    ),
    (
        "root",
        &[
            "server-usage-digitalSignature",
            "server-usage-keyEncipherment",
            "server-usage-keyAgreement",
            "server-usage-keyCertSign",
            "server-usage-nonRepudiation",
            "server-usage-authority",
        ],
    ),
    ("root", &["server-old-client", "server-old-server"]),
];

#[test]
fn what_certificates_say_of_themselves_is_heeded_as_openssl_does() {
    let server = server_with_tls();
    let mut comparison = comparison(&server);
    let (mut accepted, mut refused) = (0, 0);
    for (root, servers) in PECULIAR {
        for certificate in servers {
            present(&server, certificate);
            let attempt = Attempt::with(verified("verify-ca", &format!("{root}.crt")));
            match comparison.compare_as(certificate, &attempt).connected {
                true => accepted += 1,
                false => refused += 1,
            }
        }
    }
    assert!(
        accepted >= 13 && refused >= 15,
        "libpq accepts {accepted} and refuses {refused}"
    );
    comparison.finish();
}

#[test]
fn names_that_cannot_be_read_do_not_lead_to_the_common_name() {
    let server = server_with_tls();
    let home = tempfile::tempdir().expect("create a directory");
    for certificate in ["server-names-torn", "server-names-not-ascii"] {
        present(&server, certificate);
        let attempt = Attempt::with(verified("verify-full", "root.crt"));
        for client in [Client::Walring, Client::Libpq(None)] {
            let outcome = client.attempt(&server, home.path(), &attempt);
            assert!(!outcome.connected, "{certificate} {client:?}: {outcome:#?}");
        }
    }
}

#[test]
fn a_key_that_is_beyond_walring_is_named() {
    let server = server_with_tls();
    let home = tempfile::tempdir().expect("create a directory");
    present(&server, "server-p521");
    let attempt = Attempt::with(verified("verify-full", "root.crt"));
    let exit = Client::Walring.meet(server.port(), &attempt);
    assert_ne!(exit.code, Some(0), "{:?}", exit.stderr);
    let hint = exit.stderr.iter().find(|line| line.contains("hint: "));
    assert!(
        hint.is_some_and(|hint| hint.contains("P-384")),
        "{:?}",
        exit.stderr
    );
    // It is for the first flight alone.
    present(&server, "server-other-name");
    let outcome = Client::Walring.attempt(&server, home.path(), &attempt);
    assert!(
        !outcome.said.iter().any(|line| line.contains("P-384")),
        "{outcome:#?}"
    );
}

#[test]
fn what_is_too_weak_is_refused() {
    // A server that itself thinks nothing of it: its OpenSSL is an older one.
    let Some(installation) = Installation::version(17) else {
        return;
    };
    let server = tls::start(tls::with_tls(ServerOptions::default().version(&installation)));
    let mut comparison = comparison(&server);
    for certificate in ["server-weak", "server-sha1"] {
        present(&server, certificate);
        let attempt = Attempt::with(verified("verify-ca", "root.crt"));
        comparison.compare_as(certificate, &attempt.fails());
    }
    comparison.finish();
}

#[test]
fn without_a_root_anybody_is_believed() {
    let server = server_with_tls();
    let mut comparison = comparison(&server);
    for certificate in MADE {
        present(&server, certificate);
        let attempt = Attempt::with("user=encrypted sslmode=require");
        comparison.compare_as(certificate, &attempt);
    }
    comparison.finish();
}

#[test]
fn revocation_lists_are_read_as_libpq_does() {
    let server = server_with_tls();
    let mut comparison = comparison(&server);
    let files = [
        "root.crl",
        "root-first-version.crl",
        "empty.crl",
        "expired.crl",
        "early.crl",
        "other.crl",
        "forged.crl",
        "intermediate.crl",
        "chain.crl",
        "chain-empty.crl",
        "chain-intermediate-revoked.crl",
    ];
    let directories = ["root", "empty", "chain", "intermediate", "expired"];
    let mut lists: Vec<String> = files.map(|name| format!("sslcrl={}", file(name))).to_vec();
    lists.extend(directories.map(|name| format!("sslcrldir={}", file(&format!("{name}.crl.d")))));
    lists.push(format!(
        "sslcrl={} sslcrldir={}",
        file("root.crl"),
        file("intermediate.crl.d")
    ));
    for certificate in [
        "server-localhost",
        "server-revoked",
        "server-chain",
        "server-chain-revoked",
    ] {
        present(&server, certificate);
        for list in &lists {
            let settings = format!("{} {list}", verified("verify-full", "root.crt"));
            comparison.compare_as(certificate, &Attempt::with(settings));
        }
    }
    comparison.finish();
}

#[test]
fn a_list_that_is_wanted_and_is_none_is_never_passed_over() {
    // libpq goes on without any list then, and says nothing.
    let server = server_with_tls();
    let home = tempfile::tempdir().expect("create a directory");
    let (torn, nonsense, empty) = (file("torn.crl"), file("nonsense.crt"), file("empty.crt"));
    for list in [
        format!("sslcrl={torn}"),
        format!("sslcrl={nonsense}"),
        format!("sslcrl={empty}"),
        "sslcrl=/nonexistent/root.crl".to_owned(),
        "sslcrldir=/nonexistent".to_owned(),
        format!("sslcrl={nonsense} sslcrldir=/nonexistent"),
    ] {
        let attempt = Attempt::with(format!("{} {list}", verified("verify-full", "root.crt")));
        let outcome = Client::Walring.attempt(&server, home.path(), &attempt);
        assert!(!outcome.connected, "{list}: {outcome:#?}");
        assert!(
            outcome.said.iter().any(|line| line.contains("revocation list")),
            "{list}: {outcome:#?}"
        );
    }
}

#[test]
fn which_list_counts_is_as_with_openssl() {
    let server = server_with_tls();
    let mut comparison = comparison(&server);
    let mut accepted = 0;
    for (certificate, root, lists) in [
        (
            "server-of-root-listed",
            "root-listed",
            &["newest-last", "root-listed-part", "root-listed-critical_part"][..],
        ),
        (
            "server-root-listed-revoked",
            "root-listed",
            &[
                "newest-last",
                "newest-first",
                "root-listed-old",
                "root-listed-part",
                "part-and-old",
            ],
        ),
        (
            "server-root-listed-revoked",
            "root-with-list",
            &["root-listed-old"],
        ),
        ("server-of-root-listed", "root-with-list", &["root-listed-old"]),
        ("server-of-root-no-lists", "root-no-lists", &["root-no-lists-new"]),
        (
            "server-of-root-retired",
            "root-retired",
            &["root-retired-new", "root-retired"],
        ),
    ] {
        present(&server, certificate);
        for list in lists {
            let list = file(&format!("{list}.crl"));
            let settings = format!("{} sslcrl={list}", verified("verify-ca", &format!("{root}.crt")));
            let outcome = comparison.compare_as(certificate, &Attempt::with(settings));
            accepted += u32::from(outcome.connected);
        }
        // Where no lists are wanted, none counts.
        let settings = verified("verify-ca", &format!("{root}.crt"));
        comparison.compare_as(certificate, &Attempt::with(settings).succeeds());
    }
    assert!((4..=6).contains(&accepted), "libpq accepts {accepted}");
    comparison.finish();
}

#[test]
fn a_list_of_changes_is_no_list() {
    // libpq takes it for all that was withdrawn.
    let server = server_with_tls();
    let home = tempfile::tempdir().expect("create a directory");
    present(&server, "server-of-root-listed");
    let list = |name| {
        format!(
            "{} sslcrl={}",
            verified("verify-ca", "root-listed.crt"),
            file(name)
        )
    };
    let connects = |name| {
        let attempt = Attempt::with(list(name));
        Client::Walring.attempt(&server, home.path(), &attempt).connected
    };
    assert!(connects("root-listed-old.crl"));
    assert!(!connects("root-listed-change.crl"));
}

#[test]
fn what_walring_alone_is_strict_about_never_leads_to_plain_text() {
    let server = server_with_tls();
    let home = tempfile::tempdir().expect("create a directory");
    let key = format!("sslcert={} sslkey=engine:key", file("client-good.crt"));
    let list = format!("sslcrl={}", file("torn.crl"));
    // OpenSSL would ask for the password.
    let locked = file("client-good-aes.key");
    let locked = format!("sslcert={} sslkey={locked}", file("client-good.crt"));
    for settings in [key, list, locked] {
        let root = file("root.crt");
        let settings = format!("user=either sslmode=prefer sslrootcert={root} {settings}");
        let outcome = Client::Walring.attempt(&server, home.path(), &Attempt::with(&settings));
        assert!(!outcome.connected, "{settings}: {outcome:#?}");
    }
}

#[test]
fn lists_in_a_directory_need_no_hashed_names() {
    let server = server_with_tls();
    let home = tempfile::tempdir().expect("create a directory");
    for (certificate, good) in [("server-localhost", true), ("server-revoked", false)] {
        present(&server, certificate);
        let list = format!("sslcrldir={}", file("unhashed.crl.d"));
        let attempt = Attempt::with(format!("{} {list}", verified("verify-full", "root.crt")));
        // libpq, which finds none, refuses both.
        let outcome = Client::Walring.attempt(&server, home.path(), &attempt);
        assert_eq!(outcome.connected, good, "{certificate}: {outcome:#?}");
    }
}

#[test]
fn a_list_counts_for_nothing_without_a_root_and_for_all_with_one() {
    let server = server_with_tls();
    present(&server, "server-revoked");
    let mut comparison = comparison(&server);
    let list = format!("sslcrl={}", file("root.crl"));
    comparison.compare(&Attempt::with(format!("user=encrypted sslmode=require {list}")).succeeds());
    for mode in ["require", "verify-ca", "verify-full"] {
        let attempt = Attempt::with(format!("{} {list}", verified(mode, "root.crt")));
        comparison.compare(&attempt.fails());
    }
    comparison.finish();
}

// ---- the system's roots ----

#[test]
fn the_systems_roots_are_those_that_openssl_is_told_of() {
    let server = server_with_tls();
    let mut comparison = Comparison::on(&server);
    if !comparison.is_new() {
        return;
    }
    let system = || Attempt::with("user=encrypted sslrootcert=system");
    comparison.compare(&system().fails());
    comparison.compare(&system().env("SSL_CERT_FILE", file("root.crt")).succeeds());
    comparison.compare(&system().env("SSL_CERT_FILE", file("other-root.crt")).fails());
    let nowhere = system().env("SSL_CERT_FILE", "/nonexistent").fails();
    let outcome = Client::Walring.attempt(&server, comparison.home(), &nowhere);
    assert!(!outcome.connected, "{outcome:#?}");
    let directory = system().env("SSL_CERT_DIR", file("system.d"));
    comparison.compare(&directory.env("SSL_CERT_FILE", "/nonexistent").succeeds());
    comparison.compare(
        &Attempt::with("user=encrypted")
            .env("PGSSLROOTCERT", "system")
            .fails(),
    );
    let explicit = Attempt::with("user=encrypted sslrootcert=system sslmode=verify-full");
    comparison.compare(&explicit.env("SSL_CERT_FILE", file("root.crt")).succeeds());
    present(&server, "server-other-name");
    comparison.compare(&system().env("SSL_CERT_FILE", file("root.crt")).fails());
    present(&server, "server-revoked");
    let list = format!("user=encrypted sslrootcert=system sslcrl={}", file("root.crl"));
    comparison.compare(&Attempt::with(list).env("SSL_CERT_FILE", file("root.crt")));
    comparison.finish();
}

#[test]
fn a_root_named_system_in_a_directory_is_a_file() {
    let server = server_with_tls();
    let mut comparison = Comparison::on(&server);
    let path = comparison.home().join("system");
    std::fs::copy(certificates::path("root.crt"), &path).expect("copy a certificate");
    let settings = format!("user=encrypted sslmode=require sslrootcert={}", path.display());
    comparison.compare(&Attempt::with(settings).succeeds());
    comparison.finish();
}
