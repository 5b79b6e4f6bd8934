//! The certificate that walring shows, and its key: found, read, guarded and sent as by libpq.
mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::attempt::{Attempt, Client, Comparison};
use common::certificates::{file, path};
use common::tls::server_with_tls;

/// As this role, with this certificate and this key.
fn shown(role: &str, certificate: &str, key: &str) -> String {
    let (certificate, key) = (file(certificate), file(key));
    format!("user={role} sslmode=require sslcert={certificate} sslkey={key}")
}

/// Certificate and key are called the same.
fn pair(role: &str, name: &str) -> String {
    shown(role, &format!("{name}.crt"), &format!("{name}.key"))
}

#[test]
fn certificates_open_the_doors_they_open_for_libpq() {
    let server = server_with_tls();
    server.append_config(&format!("ssl_crl_file = '{}'\n", file("chain.crl")));
    server.reload();
    let mut comparison = Comparison::on(&server);
    for name in [
        "client-good",
        "client-rsa",
        "client-ed25519",
        "client-p384",
        "client-chain",
        "client-without-chain",
        "client-nobody",
        "client-revoked",
        "client-expired",
        "client-of-other-root",
    ] {
        for role in ["certified", "verified", "nobody", "encrypted"] {
            for version in ["TLSv1.2", "TLSv1.3"] {
                let settings = pair(role, name);
                let attempt = Attempt::with(format!("{settings} ssl_max_protocol_version={version}"));
                comparison.compare_as(name, &attempt);
            }
        }
    }
    for role in ["certified", "verified", "nobody", "encrypted"] {
        comparison.compare_as("none", &Attempt::with(format!("user={role} sslmode=require")));
    }
    comparison.compare(&Attempt::with(pair("certified", "client-good")).succeeds());
    comparison.compare(&Attempt::with(pair("certified", "client-nobody")).fails());
    comparison.finish();
}

#[test]
fn what_leads_from_a_certificate_to_the_root_is_taken_from_the_roots() {
    let server = server_with_tls();
    let mut comparison = Comparison::on(&server);
    for name in ["client-without-chain", "client-wrong-chain", "client-good"] {
        for root in ["root.crt", "root-and-intermediate.crt", "root-and-impostor.crt"] {
            for role in ["certified", "verified", "encrypted"] {
                for version in ["TLSv1.2", "TLSv1.3"] {
                    let settings = format!("{} sslrootcert={}", pair(role, name), file(root));
                    let attempt = Attempt::with(format!("{settings} ssl_max_protocol_version={version}"));
                    comparison.compare_as(name, &attempt);
                }
            }
        }
    }
    let with = |name: &str| {
        let root = file("root-and-intermediate.crt");
        Attempt::with(format!("{} sslrootcert={root}", pair("certified", name)))
    };
    comparison.compare(&with("client-without-chain").succeeds());
    comparison.compare(&with("client-wrong-chain").fails());
    comparison.finish();
}

#[test]
fn a_server_that_asks_for_no_certificate_gets_none() {
    let server = server_with_tls();
    server.append_config("ssl_ca_file = ''\n");
    server.reload();
    let mut comparison = Comparison::on(&server);
    for mode in ["disable", "allow", "require"] {
        if comparison.is_new() {
            let settings = pair("encrypted", "client-good");
            comparison.compare(&Attempt::with(format!("{settings} sslcertmode={mode}")));
        }
        comparison.compare(&Attempt::with(pair("encrypted", "client-good")).succeeds());
    }
    comparison.finish();
}

#[test]
fn whether_a_certificate_is_shown_is_the_modes_to_say() {
    let server = server_with_tls();
    let mut comparison = Comparison::on(&server);
    if !comparison.is_new() {
        return;
    }
    for mode in ["disable", "allow", "require"] {
        for role in ["certified", "encrypted", "plain", "either"] {
            for tls in ["prefer", "allow", "disable", "require"] {
                if (mode, role, tls) == ("require", "plain", "prefer") {
                    // libpq counts what it showed on the connection that was refused before.
                    continue;
                }
                let asked = format!("sslcertmode={mode} sslmode={tls}");
                comparison.compare(&Attempt::with(format!("user={role} {asked}")));
                let with = format!("{} {asked}", pair(role, "client-good"));
                comparison.compare(&Attempt::with(with));
            }
        }
    }
    comparison.finish();
}

/// The forms of the keys `client-good` and `client-rsa`; the password, where there is one, is "secret".
const FORMS: [&str; 12] = [
    "",
    "-aes",
    "-aes-sha1",
    "-3des",
    "-scrypt",
    "-der",
    "-old-aes128",
    "-old-aes256",
    "-old-des3",
    "-old",
    "-old-der",
    "-words",
];

#[test]
fn keys_are_read_in_every_form_with_the_right_password_only() {
    let server = server_with_tls();
    let mut comparison = Comparison::with(&server, Client::Libpq(None));
    for kind in ["client-good", "client-rsa"] {
        for form in FORMS {
            if kind == "client-rsa" && form == "-words" {
                continue;
            }
            let settings = shown("certified", &format!("{kind}.crt"), &format!("{kind}{form}.key"));
            for password in ["sslpassword=secret", "sslpassword=wrong"] {
                comparison.compare(&Attempt::with(format!("{settings} {password}")));
            }
        }
    }
    comparison.compare(&Attempt::with(shown(
        "certified",
        "client-good.crt",
        "client-good-both.key",
    )));
    let umlaut = shown("certified", "client-good.crt", "client-good-umlaut.key");
    comparison.compare(&Attempt::with(format!("{umlaut} sslpassword=gehört")).succeeds());
    let aes = shown("certified", "client-rsa.crt", "client-rsa-aes.key");
    comparison.compare(&Attempt::with(format!("{aes} sslpassword=secret")).succeeds());
    comparison.finish();
}

#[test]
fn an_encrypted_key_may_be_binary() {
    let server = server_with_tls();
    let home = tempfile::tempdir().expect("create a directory");
    for (password, right) in [("secret", true), ("wrong", false)] {
        for kind in ["client-good", "client-rsa"] {
            let settings = shown(
                "certified",
                &format!("{kind}.crt"),
                &format!("{kind}-der-encrypted.key"),
            );
            let attempt = Attempt::with(format!("{settings} sslpassword={password}"));
            // libpq does not read these.
            let outcome = Client::Walring.attempt(&server, home.path(), &attempt);
            assert_eq!(outcome.connected, right, "{kind}: {outcome:#?}");
        }
    }
}

#[test]
fn a_key_that_needs_a_password_is_not_read_without_one() {
    let server = server_with_tls();
    for form in ["-aes", "-old-aes256"] {
        let settings = shown("certified", "client-good.crt", &format!("client-good{form}.key"));
        // OpenSSL would ask on the terminal, which is nobody's here: what it says then differs, that it fails does not.
        for client in [Client::Libpq(None), Client::Walring] {
            let home = tempfile::tempdir().expect("create a directory");
            let outcome = client.attempt(&server, home.path(), &Attempt::with(&*settings));
            assert!(!outcome.connected, "{client:?}: {outcome:#?}");
            let named = |line: &String| line.contains("could not load private key file");
            assert!(outcome.said.iter().any(named), "{client:?}: {outcome:#?}");
        }
    }
}

#[test]
fn a_key_that_is_beyond_walring_is_named() {
    let server = server_with_tls();
    for (key, kind) in [
        ("client-p521", "ECDSA keys on P-521 are not supported"),
        ("client-p521-old", "ECDSA keys on P-521 are not supported"),
        ("client-weak", "RSA keys of 1024 bits are not supported"),
        ("client-weak-old", "RSA keys of 1024 bits are not supported"),
    ] {
        let certificate = format!("{}.crt", key.trim_end_matches("-old"));
        let settings = shown("certified", &certificate, &format!("{key}.key"));
        let exit = Client::Walring.meet(server.port(), &Attempt::with(settings));
        assert_eq!(exit.code, Some(1), "{exit:?}");
        let told = exit.stderr.concat();
        assert!(
            told.contains(kind) && told.contains("hint: walring can use keys of"),
            "{told}"
        );
    }
}

#[test]
fn keys_and_certificates_that_are_none_or_do_not_fit_are_refused() {
    let server = server_with_tls();
    let mut comparison = Comparison::with(&server, Client::Libpq(None));
    let (certificates, keys) = (
        [
            "client-good.crt",
            "client-der.crt",
            "torn.crt",
            "nonsense.crt",
            "empty.crt",
            "client-good.key",
        ],
        [
            "client-good.key",
            "client-rsa.key",
            "client-torn.key",
            "client-nonsense.key",
            "client-empty.key",
            "root.crl.d",
        ],
    );
    for certificate in certificates {
        for key in keys {
            comparison.compare(&Attempt::with(shown("encrypted", certificate, key)));
        }
    }
    let missing = "/nonexistent/client";
    let (certificate, key) = (file("client-good.crt"), file("client-good.key"));
    for settings in [
        format!("sslcert={missing}"),
        format!("sslkey={missing}"),
        format!("sslcert={certificate} sslkey={missing}"),
        format!("sslcert={certificate}"),
        format!("sslcert={missing} sslkey={key}"),
        format!("sslcert={certificate}/below sslkey={key}"),
        format!("sslcert={certificate} sslkey={key}/below"),
        format!("sslcert={} sslkey={key}", file("root.crl.d")),
    ] {
        for mode in ["require", "prefer", "disable"] {
            comparison.compare(&Attempt::with(format!("user=either sslmode={mode} {settings}")));
        }
    }
    comparison.finish();
}

/// A copy of a key with these permissions and this owner.
fn guarded(directory: &Path, name: &str, mode: u32, owner: Option<u32>) -> PathBuf {
    let copy = directory.join(format!("{name}-{mode:o}-{owner:?}"));
    std::fs::copy(path(name), &copy).expect("copy a key");
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(mode)).expect("set permissions");
    std::os::unix::fs::chown(&copy, owner, None).expect("give a key away");
    copy
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let server = server_with_tls();
    let mut comparison = Comparison::on(&server);
    let directory = tempfile::tempdir().expect("create a directory");
    let other = common::postgres::server_user().map(|(uid, _)| uid);
    for owner in [None, other] {
        for mode in [
            0o400, 0o600, 0o640, 0o440, 0o660, 0o644, 0o604, 0o610, 0o777, 0o700,
        ] {
            let key = guarded(directory.path(), "client-good.key", mode, owner);
            let certificate = file("client-good.crt");
            let settings = format!("sslcert={certificate} sslkey={}", key.display());
            comparison.compare(&Attempt::with(format!(
                "user=certified sslmode=require {settings}"
            )));
        }
    }
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(path("client-good.key"), &link).expect("link a key");
    let linked = format!("sslcert={} sslkey={}", file("client-good.crt"), link.display());
    comparison.compare(&Attempt::with(format!("user=certified sslmode=require {linked}")).succeeds());
    comparison.finish();
}

#[test]
fn a_password_for_a_key_is_shown_to_nobody() {
    let server = server_with_tls();
    let settings = shown("certified", "client-good.crt", "client-good-aes.key");
    let home = tempfile::tempdir().expect("create a directory");
    let attempt = Attempt::with(format!("{settings} sslpassword=unspeakable"));
    let outcome = Client::Walring.attempt(&server, home.path(), &attempt);
    assert!(!outcome.connected, "{outcome:#?}");
    assert!(!format!("{outcome:?}").contains("unspeakable"), "{outcome:#?}");
    assert!(!server.log().contains("unspeakable"), "the server was told");
}
