//! A server that asks for passwords.

use super::server::Server;
use super::wait::until;

/// On TCP the users `clear`, `md5` and `scram` log in with this password, each in its way.
pub fn server_asking_for(password: &str) -> Server {
    let server = Server::start();
    let create = |user| format!("create role {user} replication login password '{password}'");
    server.sql(&format!("set password_encryption = 'md5'; {}", create("md5")));
    server.sql(&create("scram"));
    server.sql(&create("clear"));
    server.set_hba(
        "local all all trust\n\
         host replication clear 127.0.0.1/32 password\n\
         host replication md5 127.0.0.1/32 md5\n\
         host replication scram 127.0.0.1/32 scram-sha-256\n",
    );
    server
}
