//! Who proves what to whom: every way to authenticate, with and without TLS, and what is allowed of it, as with libpq.
mod common;

use common::attempt::{Attempt, Client, Comparison};
use common::certificates::file;
use common::server::RECEIVER_NAME;
use common::tls::{present, server_with_tls, start, with_tls};
use common::{Archive, Installation, Process, Server, ServerOptions, postgres, program};

const PASSWORD: &str = "secret ü";

/// How the roles of these names log in, on TCP with and without TLS.
const RULES: &str = "
local   all         all       trust
local   replication all       trust
host    replication clear     127.0.0.1/32 password
host    replication hashed    127.0.0.1/32 md5
host    replication upgraded  127.0.0.1/32 md5
host    replication proven    127.0.0.1/32 scram-sha-256
host    replication either    127.0.0.1/32 trust
hostssl replication certified 127.0.0.1/32 cert
hostssl replication doubled   127.0.0.1/32 scram-sha-256 clientcert=verify-ca
host    replication kerberos  127.0.0.1/32 gss
host    replication rejected  127.0.0.1/32 reject
";

const METHODS: [&str; 7] = [
    "clear",
    "hashed",
    "upgraded",
    "proven",
    "either",
    "certified",
    "doubled",
];

/// A server with TLS that knows every way to log in.
fn server() -> Server {
    let server = server_with_tls();
    let create = |role| format!("create role {role} replication login password '{PASSWORD}'");
    server.sql(&format!("set password_encryption = 'md5'; {}", create("hashed")));
    for role in ["clear", "upgraded", "proven", "doubled", "kerberos", "rejected"] {
        server.sql(&create(role));
    }
    server.set_hba(RULES);
    server
}

/// The role, with what it may be asked for.
fn credentials(role: &str) -> String {
    match role {
        "certified" | "doubled" => format!(
            "user={role} password='{PASSWORD}' sslcert={} sslkey={}",
            file("client-good.crt"),
            file("client-good.key")
        ),
        _ => format!("user={role} password='{PASSWORD}'"),
    }
}

#[test]
fn every_method_meets_every_channel_binding() {
    let server = server();
    let mut comparison = Comparison::on(&server);
    for role in METHODS {
        for mode in ["disable", "allow", "prefer", "require"] {
            for binding in [
                "",
                "channel_binding=disable",
                "channel_binding=prefer",
                "channel_binding=require",
            ] {
                let settings = format!("{} sslmode={mode} {binding}", credentials(role));
                comparison.compare(&Attempt::with(settings));
            }
        }
    }
    let required = || Attempt::with(credentials("proven")).env("PGCHANNELBINDING", "require");
    comparison.compare(&required().env("PGSSLMODE", "require").succeeds());
    comparison.compare(&required().env("PGSSLMODE", "disable").fails());
    comparison.compare(
        &Attempt::with("user=clear channel_binding=require")
            .env("PGPASSWORD", PASSWORD)
            .fails(),
    );
    comparison.finish();
}

#[test]
fn a_wrong_password_is_wrong_in_every_way() {
    let server = server();
    let mut comparison = Comparison::on(&server);
    for role in ["clear", "hashed", "upgraded", "proven", "rejected"] {
        for mode in ["disable", "prefer", "allow", "require"] {
            for password in ["password=wrong", "password=''", "password='secret u'", ""] {
                comparison.compare(&Attempt::with(format!("user={role} sslmode={mode} {password}")).fails());
            }
        }
    }
    comparison.finish();
}

#[test]
fn a_proof_takes_as_many_rounds_as_the_server_says() {
    let Some(newest) = Installation::version(17) else {
        return;
    };
    let options = ServerOptions::default().version(&newest);
    let server = start(with_tls(options.config("scram_iterations = 310000")));
    server.sql(&format!(
        "create role proven replication login password '{PASSWORD}'"
    ));
    server.set_hba("local all all trust\nhost replication proven 127.0.0.1/32 scram-sha-256\n");
    let rounds = server.sql("select split_part(rolpassword, ':', 1) from pg_authid where rolname = 'proven'");
    assert_eq!(rounds, "SCRAM-SHA-256$310000");
    let mut comparison = Comparison::on(&server);
    for tls in ["sslmode=disable", "sslmode=require channel_binding=require"] {
        let right = Attempt::with(format!("{} {tls}", credentials("proven")));
        comparison.compare(&right.succeeds());
        comparison.compare(&Attempt::with(format!("user=proven password=wrong {tls}")).fails());
    }
    comparison.finish();
}

#[test]
fn a_password_is_prepared_for_its_proof_as_libpq_prepares_it() {
    let server = server();
    // Parts that vanish or change, that are prohibited, unknown to the standard, or run in two directions.
    let passwords = [
        "I\u{ad}X",
        "IX",
        "\u{2168}",
        "\u{aa}",
        "a",
        "\u{ad}",
        "a\u{a0}b",
        "a b",
        "a\tb",
        "\u{e000}\u{aa}",
        "\u{e000}a",
        "\u{1f600}",
        "\u{627}1",
        "\u{627}1\u{628}",
        "\u{fb01}",
        "fi",
    ];
    let mut comparison = Comparison::on(&server);
    let mut connected = 0;
    for stored in passwords {
        server.sql(&format!("alter role proven password '{stored}'"));
        for given in passwords {
            let attempt = Attempt::with(format!("user=proven password='{given}' sslmode=disable"));
            let outcome = comparison.compare_as(stored, &attempt);
            assert!(outcome.connected || stored != given, "{stored:?}");
            connected += usize::from(outcome.connected);
        }
    }
    assert!(connected > passwords.len(), "nothing is prepared");
    comparison.finish();
}

#[test]
fn channel_binding_knows_every_kind_of_certificate() {
    let server = server();
    // The OpenSSL that operators have: what it cannot hash depends on its version.
    let mut comparison = Comparison::with(&server, Client::Libpq(None));
    let mut bound = 0;
    for certificate in [
        "server-localhost",
        "server-rsa",
        "server-documented",
        "server-sha224",
        "server-sha384",
        "server-sha512",
        "server-p384",
        "server-ed25519",
        "server-pss",
        "server-chain",
        "server-snakeoil",
        "server-expired",
        "server-of-other-root",
    ] {
        present(&server, certificate);
        for version in ["TLSv1.2", "TLSv1.3"] {
            for binding in ["prefer", "require"] {
                let credentials = credentials("proven");
                let tls =
                    format!("sslmode=require ssl_max_protocol_version={version} channel_binding={binding}");
                let attempt = Attempt::with(format!("{credentials} {tls}"));
                let outcome = comparison.compare_as(certificate, &attempt);
                bound += u32::from(outcome.connected && binding == "require");
            }
        }
    }
    assert!(bound >= 18, "libpq binds {bound} only");
    comparison.finish();
}

/// Valid and not: what libpq 17 knows.
const REQUIREMENTS: [&str; 28] = [
    "''",
    "none",
    "password",
    "md5",
    "scram-sha-256",
    "gss",
    "sspi",
    "password,md5,scram-sha-256",
    "scram-sha-256,none",
    "none,md5",
    "!none",
    "!password",
    "!md5",
    "!scram-sha-256",
    "!gss",
    "!sspi",
    "!password,!md5",
    "!password,!md5,!none",
    "!password,!md5,!none,!scram-sha-256,!gss,!sspi",
    "foo",
    "SCRAM-SHA-256",
    "md5,md5",
    "!md5,!md5",
    "md5,!password",
    "!md5,password",
    "md5,",
    "',md5'",
    "'md5, password'",
];

#[test]
fn only_what_is_allowed_is_answered() {
    let server = server();
    let mut comparison = Comparison::on(&server);
    if !comparison.is_new() {
        return;
    }
    for role in METHODS {
        for requirement in REQUIREMENTS {
            let settings = format!("{} require_auth={requirement}", credentials(role));
            comparison.compare(&Attempt::with(settings));
        }
    }
    comparison.finish();
}

#[test]
fn what_is_allowed_and_the_channel_are_both_heeded() {
    let server = server();
    let mut comparison = Comparison::on(&server);
    if !comparison.is_new() {
        return;
    }
    for role in METHODS {
        for requirement in ["none", "md5", "scram-sha-256", "!none", "!scram-sha-256"] {
            for binding in ["disable", "require"] {
                for mode in ["disable", "require"] {
                    let settings = format!("{} sslmode={mode} channel_binding={binding}", credentials(role));
                    let attempt = Attempt::with(settings).env("PGREQUIREAUTH", requirement);
                    comparison.compare(&attempt);
                }
            }
        }
    }
    comparison.finish();
}

#[test]
fn the_peer_behind_a_socket_is_who_it_has_to_be() {
    let server = server();
    let mut comparison = Comparison::on(&server);
    let own = rustix::process::geteuid().as_raw();
    let uid = postgres::server_user().map_or(own, |(uid, _)| uid);
    let users = std::fs::read_to_string("/etc/passwd").expect("read /etc/passwd");
    let is_servers = |line: &&str| line.split(':').nth(2) == Some(&uid.to_string());
    let line = users
        .lines()
        .find(is_servers)
        .expect("a user that runs the server");
    let user = line.split(':').next().expect("a name");
    for (peer, right) in [
        (user, true),
        ("''", true),
        ("nobody", false),
        ("no-such-user", false),
        ("POSTGRES", false),
    ] {
        let settings = format!("user=postgres requirepeer={peer}");
        let attempt = Attempt::with(&settings).on_socket();
        comparison.compare(&if right {
            attempt.succeeds()
        } else {
            attempt.fails()
        });
        comparison.compare(&Attempt::with(format!("user=either requirepeer={peer}")).succeeds());
    }
    let attempt = Attempt::with("user=postgres")
        .on_socket()
        .env("PGREQUIREPEER", "nobody");
    comparison.compare(&attempt.fails());
    comparison.finish();
}

#[test]
fn what_is_not_spoken_is_refused_by_its_name() {
    let server = server();
    let home = tempfile::tempdir().expect("create a directory");
    for mode in ["disable", "require"] {
        let attempt = Attempt::with(format!("{} sslmode={mode}", credentials("kerberos")));
        let outcome = Client::Walring.attempt(&server, home.path(), &attempt);
        assert!(!outcome.connected, "{outcome:#?}");
        assert!(
            outcome.said.iter().any(|line| line.contains("GSS")),
            "{outcome:#?}"
        );
    }
}

#[test]
fn a_stream_waits_for_the_server_to_ask_again_for_what_it_may_ask_for() {
    let server = server();
    let rule = |method: &str| format!("local all all trust\nhost replication proven 127.0.0.1/32 {method}\n");
    let archive = Archive::new();
    let mut command = program::receive();
    let settings = format!("{} channel_binding=require", credentials("proven"));
    command
        .args(["-h", "127.0.0.1", "-p", &server.port().to_string()])
        .args(["--synchronous", "-w", "-d", &settings, "-D"])
        .arg(archive.path())
        .env("PGAPPNAME", RECEIVER_NAME);
    let receiver = Process::spawn(command);
    server.wait_flushed(server.write_wal(1));
    for (method, tls, expected) in [
        ("gss", "on", "GSSAPI authentication is not supported"),
        (
            "password",
            "on",
            "not supported by server's authentication request",
        ),
        ("trust", "on", "authenticated client without channel binding"),
        (
            "scram-sha-256",
            "off",
            "channel binding required, but SSL not in use",
        ),
    ] {
        server.sql(&format!("alter system set ssl = {tls}"));
        server.set_hba(&rule(method));
        server.sql("select pg_terminate_backend(pid) from pg_stat_replication");
        receiver.wait_for_line(expected);
        server.sql("alter system set ssl = on");
        server.set_hba(&rule("scram-sha-256"));
        server.wait_flushed(server.write_wal(1));
    }
    receiver.stop();
}

#[test]
fn passwords_stay_where_they_are_not_asked_for() {
    let server = server();
    let home = tempfile::tempdir().expect("create a directory");
    for role in ["either", "certified"] {
        let attempt = Attempt::with(format!("{} sslmode=require", credentials(role)));
        let outcome = Client::Walring.attempt(&server, home.path(), &attempt);
        assert!(outcome.connected, "{outcome:#?}");
    }
    assert!(!server.log().contains(PASSWORD), "the password is in the log");
}
