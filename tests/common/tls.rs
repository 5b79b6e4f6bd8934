//! Servers that offer TLS, with the made-up [certificates].

use super::certificates;
use super::scratch::give_to_server_user;
use super::server::{Server, ServerOptions};

/// Who may connect how, to tell by the role.
const RULES: &str = "
local     all         all       trust
local     replication all       trust
hostssl   replication encrypted 127.0.0.1/32 trust
hostnossl replication plain     127.0.0.1/32 trust
host      replication either    127.0.0.1/32 trust
hostssl   replication certified 127.0.0.1/32 cert
hostssl   replication verified  127.0.0.1/32 trust clientcert=verify-ca
hostssl   replication nobody    127.0.0.1/32 trust clientcert=verify-full
";

/// The roles of [`RULES`].
const ROLES: [&str; 6] = ["encrypted", "plain", "either", "certified", "verified", "nobody"];

/// What the log has to say of each connection, with its process in front.
const LOGGING: [&str; 2] = ["log_connections = on", "log_line_prefix = '%p|'"];

/// TLS, as the files in the data directory have it; clients are certified by the root.
const TLS: [&str; 3] = [
    "ssl = on",
    "ssl_cert_file = 'server.crt'",
    "ssl_key_file = 'server.key'",
];

/// A server that offers TLS as `server-localhost`, and whose roles are let in by the names they have.
pub fn server_with_tls() -> Server {
    start(with_tls(ServerOptions::default()))
}

/// A server with the same roles that does not offer TLS; those who have to be encrypted are never let in.
pub fn server_without_tls() -> Server {
    let server = start(
        LOGGING
            .into_iter()
            .fold(ServerOptions::default(), ServerOptions::config),
    );
    server.set_hba(&RULES.replace("hostssl", "#hostssl"));
    server
}

/// The same options, with TLS.
pub fn with_tls(options: ServerOptions) -> ServerOptions {
    let root = format!("ssl_ca_file = '{}'", certificates::file("root.crt"));
    let lines = TLS.into_iter().chain(LOGGING);
    lines.fold(options, ServerOptions::config).config(&root)
}

/// Makes the server, with a certificate and its roles, and starts it.
pub fn start(options: ServerOptions) -> Server {
    let server = options.create();
    install(&server, "server-localhost");
    server.set_hba(RULES);
    server.start_again();
    for role in ROLES {
        server.sql(&format!("create role {role} replication login"));
    }
    server
}

/// From now on the server is who the certificate of this name says.
pub fn present(server: &Server, name: &str) {
    install(server, name);
    let refusals = || server.log().matches("SSL configuration was not reloaded").count();
    let before = refusals();
    server.reload();
    assert_eq!(refusals(), before, "the server cannot use {name}");
}

fn install(server: &Server, name: &str) {
    for extension in ["crt", "key"] {
        let target = server.data().join(format!("server.{extension}"));
        let source = certificates::path(&format!("{name}.{extension}"));
        // A copy has the permissions of the original: its owner alone can read a key.
        std::fs::copy(source, &target).expect("copy a certificate");
        give_to_server_user(&target);
    }
}

/// Leads to a port of this machine by a name that its certificate has, through TLS.
pub fn conninfo(port: u16) -> String {
    format!("host=localhost hostaddr=127.0.0.1 port={port} user=either sslmode=require")
}
